"""Reducers that are given as objects: rows name them, so that a row is plain data, and a table has the classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..methods.reducer import BaseReducer

Classes = dict[str, type[BaseReducer]]


def name_objects(reducer: Any, classes: Classes) -> tuple[Any, dict[str, Any]]:
    """A reducer as plain data: its name, or a mapping of stacks, and options that it was made with.

    Args:
        reducer: a name, a :class:`Reducer`, a class of them, or one of these (or a table) per stack.
        classes: gets an entry for every object.
    """
    if isinstance(reducer, Mapping):
        parts = {}
        for stack, part in reducer.items():
            given = dict(part) if isinstance(part, Mapping) else {"reducer": part}
            name, options = name_objects(given.pop("reducer", None), classes)
            parts[stack] = {"reducer": name, **options, **given}
        return parts, {}
    kind = reducer if inspect.isclass(reducer) else type(reducer)
    if not issubclass(kind, BaseReducer):
        return reducer, {}
    name = f"{kind.__module__}:{kind.__qualname__}"
    classes[name] = kind
    return name, reducer.options() if isinstance(reducer, BaseReducer) else {}


def make_objects(arguments: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """What ``attach`` takes, from plain data: objects in place of the names of classes."""
    given = dict(arguments)
    reducer = given.pop("reducer")
    if isinstance(reducer, Mapping):
        return {"reducer": {stack: make_objects(part, classes) for stack, part in reducer.items()}, **given}
    if reducer not in classes:
        return {"reducer": reducer, **given}
    layers = {"layers": given.pop("layers")} if "layers" in given else {}
    return {"reducer": classes[reducer](**given), **layers}
