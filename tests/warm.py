"""Commands in processes that need not import anything: forked from one that has.

A command is a process of its own, with its own arguments, folder, environment, output and exit status, as if started by
``python -m MODULE``. Only what it imports was imported before. Where that matters (plugins found on other paths, what
is imported lazily), the fixture ``python`` starts one from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypedDict

IMPORTED = [
    "tokenreduce.cli",
    "tokenreduce.lab.ablation",
    "tokenreduce.report.page",
    "tokenreduce_digits.crowded.task",
    "tokenreduce_digits.meter_model",
    "sklearn.datasets",
    "timm",
    "open_clip",
    "transformers.models.vilt.modeling_vilt",
    "transformers.models.clip.modeling_clip",
]


class Request(TypedDict):
    """What a command is to do."""

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    output: str
    errors: str


def run_warm(
    module: str, arguments: Sequence[object], cwd: Path | None, timeout: float, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """``python -m MODULE ARGUMENTS``, forked."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        request = Request(
            module=module,
            arguments=[str(argument) for argument in arguments],
            folder=str(cwd or Path.cwd()),
            environment=environment,
            output=str(output),
            errors=str(errors),
        )
        process = _server().Process(target=runpy.run_path, args=(__file__, {"REQUEST": request}))  # type: ignore[attr-defined]
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([module, *request["arguments"]], timeout)
        command = ["python", "-m", module, *request["arguments"]]
        return subprocess.CompletedProcess(command, process.exitcode, output.read_text(), errors.read_text())


@cache
def _server() -> BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _serve(request: Request) -> None:
    """In the new process: be the command."""
    for number, path in ((1, request["output"]), (2, request["errors"])):
        with open(path, "wb") as file:  # noqa: PTH123
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [request["module"], *request["arguments"]]
    sys.path.insert(0, request["folder"])
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if "REQUEST" in globals():
    _serve(globals()["REQUEST"])
