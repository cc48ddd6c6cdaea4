"""Reducers from names and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import OptionError, UnknownOptionError, nearest
from ..registry.registry import Registry, default_registry
from ..registry.targets import resolve_target
from .reducer import BaseReducer, reducer_name

ReducerPlan = dict[str | None, tuple[BaseReducer, str, Sequence[int] | None]]
"""Reducers by stack (None: the default stack), each with its name and layers."""
NOT_OPTIONS = ("adapter", "trace", "restore", "unit", "positions", "readout_only")


def plan_reducers(
    registry: Registry,
    reducer: str | BaseReducer | Mapping[str, Any],
    layers: Sequence[int] | None,
    options: dict[str, Any],
) -> ReducerPlan:
    """What ``attach`` is asked for, stack by stack.

    Raises:
        OptionError, UnknownNameError, UnknownOptionError, PluginError: as :func:`tokenreduce.attach` has them.
    """
    if not isinstance(reducer, Mapping):
        return {None: (*make_reducer(registry, reducer, options), layers)}
    if options or layers is not None:
        given = ", ".join([*options, *(["layers"] if layers is not None else [])])
        raise OptionError(f"with a reducer per stack, put {given} inside: {{stack: {{'reducer': name, ...}}}}")
    if not reducer:
        raise OptionError("a reducer per stack needs at least one stack, got {}")
    plan: ReducerPlan = {}
    for stack, value in reducer.items():
        own = dict(value) if isinstance(value, Mapping) else {"reducer": value}
        if "reducer" not in own:
            raise OptionError(f"stack {stack!r} needs {{'reducer': name, ...}}, got {value!r}")
        own_layers = own.pop("layers", None)
        plan[stack] = (*make_reducer(registry, own.pop("reducer"), own), own_layers)
    return plan


def check_config(config: Mapping[str, Any]) -> None:
    """Make the reducers of a config, and let them go; raises what ``attach`` would for its names and options."""
    options = {name: value for name, value in config.items() if name not in NOT_OPTIONS}
    plan_reducers(default_registry(), options.pop("reducer"), options.pop("layers", None), options)


def reducer_class(registry: Registry, name: str) -> type[BaseReducer]:
    """The class that a registered name, or ``"module:attribute"``, stands for.

    Raises:
        OptionError: it is not one of a reducer. UnknownNameError, PluginError: as :meth:`Registry.load` has them.
    """
    made: Any = resolve_target(name) if ":" in name else registry.load("reducer", name)
    if not (inspect.isclass(made) and issubclass(made, BaseReducer)):
        raise OptionError(f"{name!r} stands for {made!r}, which is not a subclass of tokenreduce.Reducer")
    return made


def make_reducer(registry: Registry, reducer: Any, options: Mapping[str, Any]) -> tuple[BaseReducer, str]:
    """A reducer and the name that stands for it in a config.

    Args:
        reducer: a registered name, ``"module:attribute"``, or a reducer (then without options).
    """
    if isinstance(reducer, BaseReducer):
        if options:
            raise UnknownOptionError(f"{', '.join(options)}: give options to {type(reducer).__name__}(...) itself")
        return reducer, reducer_name(reducer, registry)
    if not isinstance(reducer, str):
        got = f"the class {reducer.__name__}; call it" if inspect.isclass(reducer) else type(reducer).__name__
        raise OptionError(f"reducer is a name, a Reducer or a mapping of stacks, got {got}")
    made = reducer_class(registry, reducer)
    valid = made.option_defaults()
    for name in options:
        if name not in valid:
            raise UnknownOptionError(f"{reducer} has no option {name!r}.{nearest(name, valid)}")
    with registry.blame("reducer", reducer):
        return made(**options), reducer
