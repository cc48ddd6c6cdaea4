"""``tokenreduce ablate``: reducers side by side on a task, or on a model and data of one's own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, TokenReduceError
from ..registry.registry import Registry, default_registry
from ..registry.targets import names_from_file
from ..report.formatting import one_line
from .options import add_trust, device_of, move, own_variants
from .output import STDOUT, check_writable, quiet_progress_bars, write
from .request_flags import add_flags, build_request, check_overrides, parse_settings

if TYPE_CHECKING:
    from ..lab.part import Part
    from ..lab.request import Request
    from ..lab.result import Result
    from ..tasks.task import Task


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "ablate",
        help="compare reducers on a model",
        description="Compare reducers on a model: accuracy with intervals and paired tests, multiply-adds, time, "
        "memory; beside the baseline, a random control and the model on smaller pictures. Flags override --grid, "
        " --preset, "
        "--repeat.",
    )
    what = parser.add_argument_group("what to compare")
    add_flags(what, "model", "data", "metric")
    what.add_argument(
        "--reducers",
        metavar="A,B,...",
        help="default: those of the task; all: every one that needs no training",
    )
    what.add_argument(
        "--set",
        metavar="REDUCER.OPTION=VALUE",
        action="append",
        default=[],
        help="an option, its value as JSON; may be given again (for example --set tome.r=13)",
    )
    what.add_argument(
        "--tuned", metavar="FOLDER", action="append", default=[], help="a row with these weights (of finetune's best)"
    )
    source = what.add_mutually_exclusive_group()
    source.add_argument("--grid", metavar="FILE", help="variants and more from a TOML or JSON file")
    source.add_argument("--preset", metavar="NAME", help="variants of a plugin ('tokenreduce list' names them)")
    source.add_argument("--repeat", metavar="FILE", help="what an earlier --json was asked for, again")
    level = what.add_mutually_exclusive_group()
    add_flags(level, "ratios", "match_macs")
    how = parser.add_argument_group("how")
    add_flags(how, "samples", "batch", "seeds", "seed", "batch_sizes", "rounds", "break_even", "time", "readout_only")
    how.add_argument("--part", metavar="I/N", help="only this part of the scores, for N jobs that share --store")
    how.add_argument("--device", help="cpu, cuda ... (an accelerator if there is one)")
    out = parser.add_argument_group("results")
    out.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="write everything here, - for standard output; compare and --repeat read it",
    )
    out.add_argument("--report", metavar="FILE", type=Path, help="write a page with table, charts and pictures (.html)")
    add_flags(out, "pictures")
    store = out.add_mutually_exclusive_group()
    store.add_argument("--store", metavar="DIR", help="where finished cells are kept ($TOKENREDUCE_CACHE)")
    store.add_argument("--no-store", action="store_true", help="keep nothing")
    out.add_argument("--fresh", action="store_true", help="work out everything again, whatever is kept")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write; exit code 1 when a row failed."""
    files = {"--json": arguments.json, "--report": arguments.report}
    if list(files.values()).count(STDOUT) > 1:
        raise OptionError("--json - and --report - cannot both have standard output; name a file for one of them")
    for flag, path in files.items():
        check_writable(flag, path)
    part = part_of(arguments)
    if arguments.report is not None:
        from ..report.page import check_installed

        check_installed()
    quiet_progress_bars()
    alone = STDOUT in files.values()  # then nothing else may go there, whatever a plugin prints
    with contextlib.redirect_stdout(sys.stderr) if alone else contextlib.nullcontext():
        registry = default_registry()
        request = build_request(registry, arguments)
        overrides = parse_settings(arguments.set)
        from ..lab.distributed import lone_tasks, process_group
        from ..report.terminal import print_result

        warning = None if part is not None else lone_tasks(os.environ)
        if warning is not None:
            print(f"tokenreduce: {warning}", file=sys.stderr)
        crew = process_group()
        source = str(arguments.grid or arguments.repeat or "the command line")
        with names_from_file(source, arguments.trust):
            result, task = evaluate(registry, request, overrides, arguments, part)
        if not crew.first:
            return 0 if result.ok else 1
        if part is None:
            print_result(result, task.name)
        else:
            print(said_of_part(result, arguments.store))
        for row in result.rows:
            if row.failed is not None:
                print(f"tokenreduce: {one_line(row.name)} failed: {one_line(row.failed)}", file=sys.stderr)
    _write(result, files)
    return 0 if result.ok else 1


def part_of(arguments: argparse.Namespace) -> Part | None:
    """The part of the work that ``--part`` names.

    Raises:
        OptionError: it is none, or it stands beside flags that need the whole.
    """
    from ..lab.part import Part

    if arguments.part is None:
        return None
    try:
        part = Part.of(arguments.part)
    except OptionError as error:
        raise OptionError(f"--part: {error}") from None
    if arguments.store is None:
        raise OptionError(
            "--part keeps what it works out for the other parts: give all of them the same --store FOLDER"
        )
    if arguments.json is not None or arguments.report is not None:
        raise OptionError(
            "--part has no table to write; when all parts are done, the same command without --part has it at once, "
            "and takes --json and --report"
        )
    return part


def said_of_part(result: Result, store: str) -> str:
    """What a part has done, and how to get the table."""
    setup = result.setup
    notes = "".join(f"\n{one_line(note)}" for note in setup["notes"])
    return (
        f"part {setup['part']}: {setup['scores of the part']} passes over the data, kept in {one_line(store)}. When "
        f"all parts are done, the same command without --part prints the table{notes}"
    )


def evaluate(
    registry: Registry,
    request: Request,
    overrides: dict[str, dict[str, Any]],
    arguments: argparse.Namespace,
    part: Part | None = None,
) -> tuple[Result, Task]:
    """Load the model and run the ablation, a bar on the error stream meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from ..lab.distributed import process_group
    from ..lab.preflight import check_variants
    from ..lab.store import Store, default_folder
    from ..lab.task_run import ALL, full_request, ready_reducers, run_task, with_tuned
    from ..tasks.loading import load_task

    crew = process_group()
    device = device_of(arguments.device, crew.device)
    own = own_variants(registry, request.model)  # all that can be refused is refused before anything is loaded
    if request.variants is not None and ALL not in request.variants:
        check_overrides(overrides, list(request.variants))
    elif own is not None:
        check_overrides(overrides, [*ready_reducers(registry), *own])
    asked = {name: options for name, options in (request.variants or {}).items() if name != ALL}
    check_variants(registry, {n: {**asked.get(n, {}), **overrides.get(n, {})} for n in {**asked, **overrides}}, own)
    for folder in arguments.tuned:
        check_variants(registry, {folder: {"weights": folder}})
    store = Store(None if arguments.no_store else arguments.store or default_folder(), fresh=arguments.fresh)
    what = TextColumn("{task.description:<32}", markup=False)
    columns = (what, BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("to go"))
    bar = Console(stderr=True)
    hidden = not (crew.first and bar.is_terminal)
    with Progress(*columns, *times, console=bar, transient=True, disable=hidden) as progress:
        job = progress.add_task("loading", total=None)
        assert request.model is not None
        task = load_task(registry, request.model, request.data)
        move(task.model, device)
        request = full_request(registry, request, task, overrides)
        check_overrides(overrides, list(request.variants or ()))
        request = with_tuned(request, arguments.tuned)
        result = run_task(
            request,
            task,
            store=store,
            command=["tokenreduce", *sys.argv[1:]],
            step=lambda what, done, total: progress.update(
                job, description=one_line(what, 32), completed=done, total=total
            ),
            trust=arguments.trust,
            part=part,
        )
        if arguments.report is not None and crew.first:
            from ..report.gallery import gallery

            progress.update(job, description="pictures")
            try:
                first = task.data(request.samples, min(request.batch, request.samples))[0]
                result.pictures = gallery(task, first, result, request.pictures)
            except TokenReduceError as error:  # the rest of the result is not to be lost
                result.setup.setdefault("notes", []).append(f"no pictures: {error}")
    return result, task


def _write(result: Result, files: Mapping[str, Path | None]) -> None:
    """Write what was asked for, each file even where another one cannot be written."""
    errors = []
    for flag, path in files.items():
        if path is None:
            continue
        try:
            if flag == "--json":
                text = json.dumps(result.to_json()) + "\n"
            else:
                from ..report.page import render_report

                text = render_report(result)
            write(flag, path, text)
            if path != STDOUT:
                print(f"written: {path}", file=sys.stderr if STDOUT in files.values() else sys.stdout)
        except OptionError as error:
            errors.append(error)
    if errors:
        raise errors[0]
