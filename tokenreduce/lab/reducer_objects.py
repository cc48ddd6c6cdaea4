"""Reducers that are given as objects: variants name them, so that a row is plain data, and a table has the classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import OptionError
from ..methods.reducer import BaseReducer
from ..registry.registry import default_registry

Classes = dict[str, type[BaseReducer]]
Plain = dict[str, dict[str, Any]]


def plain_variants(reducers: Any, classes: Classes) -> Plain:
    """Variants as plain data: options by name, every reducer in them named.

    Args:
        reducers: names, or a mapping of names to options, as :func:`tokenreduce.ablate` takes them.
        classes: gets an entry for every object.

    Raises:
        OptionError: something else.
    """
    if isinstance(reducers, (str, BaseReducer)) or inspect.isclass(reducers) or not isinstance(reducers, Iterable):
        told = repr(reducers) if isinstance(reducers, str) else f"{type(reducers).__name__}: {reducers!r}"
        raise OptionError(f"reducers are a list of names, or a mapping of names to options; got {told}")
    given = reducers if isinstance(reducers, Mapping) else {name: {} for name in reducers}
    if not given:
        raise OptionError("ablate needs reducers to compare, got none; 'tokenreduce list' names them")
    for name, options in given.items():
        if not isinstance(name, str):
            raise OptionError(f"a variant has a name, got {name!r}; write {{'my label': {{'reducer': ...}}}}")
        if not isinstance(options, Mapping):
            raise OptionError(f"variant {name!r} is a mapping of options ({{}} for none), got {options!r}")
    return {name: _options(options, classes) for name, options in given.items()}


def make_objects(arguments: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """What ``attach`` takes, from plain data: objects in place of the names of classes."""
    given = {key: _made(value, classes) for key, value in arguments.items() if key != "reducer"}
    reducer = arguments["reducer"]
    if not isinstance(reducer, str) or reducer not in classes:
        return {"reducer": _made(reducer, classes), **given}
    layers = {"layers": given.pop("layers")} if "layers" in given else {}
    return {"reducer": classes[reducer](**given), **layers}


def _options(options: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """Options with a reducer among them, whose own options are there too, those given here over them."""
    named = {key: _plain(value, classes) for key, value in options.items()}
    if not isinstance(options.get("reducer"), BaseReducer):
        return named
    own: dict[str, Any] = named.pop("reducer")
    return {**own, **named}


def _plain(value: Any, classes: Classes) -> Any:
    if isinstance(value, BaseReducer):
        options = _options(value.options(), classes)
        for config, part in zip(options.get("parts", ()), getattr(value, "parts", ()), strict=False):
            if isinstance(config, dict) and config.get("reducer") not in default_registry().reducers:
                config["reducer"] = _name(type(part.reducer), classes)  # of a chain, which has names alone
        return {"reducer": _name(type(value), classes), **options}
    if inspect.isclass(value) and issubclass(value, BaseReducer):
        return _name(value, classes)
    if isinstance(value, Mapping):
        return _options(value, classes)
    return [_plain(one, classes) for one in value] if isinstance(value, (list, tuple)) else value


def _name(kind: type[BaseReducer], classes: Classes) -> str:
    """A name that no other class has here, though they may come from one function."""
    name = first = f"{kind.__module__}:{kind.__qualname__}"
    number = 2
    while classes.setdefault(name, kind) is not kind:
        name, number = f"{first}#{number}", number + 1
    return name


def _made(value: Any, classes: Classes) -> Any:
    if isinstance(value, Mapping):
        if "reducer" not in value:
            return {key: _made(one, classes) for key, one in value.items()}
        made = make_objects(value, classes)
        return made["reducer"] if isinstance(made["reducer"], BaseReducer) and len(made) == 1 else made
    return [_made(one, classes) for one in value] if isinstance(value, list) else value
