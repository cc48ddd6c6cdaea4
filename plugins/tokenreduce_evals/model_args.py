"""``--model_args``: what belongs to the reducer among the arguments of a model, and a model with it attached."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.methods.factory import reducer_class
from tokenreduce.registry import default_registry
from tokenreduce.registry.targets import names_from_file

PLACING = ("layers", "unit", "positions", "adapter")
"""Arguments of ``attach`` that can stand beside the reducer's own options."""
SOURCE = "--model_args"


def split(given: Mapping[str, Any], reducer: Any, trust: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reducer's options, and the arguments that are left for the model.

    Args:
        given: arguments that the harness has no other use for.
        reducer, trust: as :func:`attach_reducer` takes them.

    Raises:
        UnknownNameError, PluginError, OptionError: no such reducer, or a broken one.
    """
    known = {*PLACING}
    if isinstance(reducer, str) and not Path(reducer).exists():
        with names_from_file(SOURCE, trust):
            known |= {*reducer_class(default_registry(), reducer).option_defaults()}
    options = {name: value for name, value in given.items() if name in known}
    return options, {name: value for name, value in given.items() if name not in known}


def attach_reducer(
    model: nn.Module, reducer: Any, options: Mapping[str, Any], trust: bool = False
) -> tokenreduce.Attachment:
    """Attach what the arguments say.

    Args:
        reducer: a registered name; a folder that ``handle.save`` wrote; a JSON file with a reducer per stack, as
            ``attach`` takes it; in Python also a mapping or a :class:`tokenreduce.Reducer`.
        options: of the reducer, and of :data:`PLACING`. ``layers`` may be text, ``"1+5+8"``.
        trust: import classes that arguments or files name by their module; without, a class that no plugin offers
            must have been imported before.

    Raises:
        OptionError: a file that is not such a plan, layers that are not numbers, or options beside a folder.

    And what :func:`tokenreduce.attach` and :func:`tokenreduce.load` raise.
    """
    chosen = dict(options)
    if "layers" in chosen:
        chosen["layers"] = layers_of(chosen["layers"])
    path = Path(reducer) if isinstance(reducer, str) else None
    if path is not None and path.is_dir():
        if chosen:
            raise OptionError(f"the folder {reducer} holds its own options; leave {', '.join(chosen)} out")
        return tokenreduce.load(model, path, trust=trust)
    if path is not None and path.exists():
        with names_from_file(str(path), trust):
            return tokenreduce.attach(model, read_plan(path), **chosen)
    with names_from_file(SOURCE, trust):
        return tokenreduce.attach(model, reducer, **chosen)


def layers_of(given: Any) -> list[int]:
    """``"1+5+8"``, a number or a list of numbers as layers.

    Raises:
        OptionError: something else.
    """
    parts = given.split("+") if isinstance(given, str) else [given] if isinstance(given, int) else given
    try:
        return [int(part) for part in parts]
    except (TypeError, ValueError):
        raise OptionError(f"layers takes numbers with + between them, for example 1+5+8, got {given!r}") from None


def read_plan(path: Path) -> dict[str, Any]:
    """A reducer per stack from a JSON file.

    Raises:
        OptionError: it holds something else.
    """
    wanted = 'expected JSON with a reducer per stack, for example {"handover": {"reducer": "divprune", "keep": 64}}'
    try:
        plan = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{path}: {wanted}, got: {error}") from error
    if not isinstance(plan, dict):
        raise OptionError(f"{path}: {wanted}, got {type(plan).__name__}")
    return plan
