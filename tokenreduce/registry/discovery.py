"""What one plugin offers, and what it may do wrong. Imports no torch."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pluggy

from ..errors import PluginError
from .hookspecs import INTERFACE, PROJECT, SPECS
from .kinds import HOOKS, Kind
from .spec import Spec, check_fields

MOST = 10_000  # specs of one hook: more are a mistake, such as a loop without an end


def read_plugin(point: EntryPoint) -> Iterator[tuple[Kind, Spec]]:
    """The specs of a plugin, each with its kind.

    A manager of its own keeps it from the others.

    Raises:
        PluginError: it is for another interface, or a hook is misspelt, not marked, or yields something else.
        Exception: whatever its own code raises.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SPECS)
    plugin = point.load()
    if manager.register(plugin, name=point.name) is None:
        raise PluginError("its entry point could not be registered")
    check_interface(getattr(plugin, "tokenreduce_interface", INTERFACE))
    check_hooks(plugin)
    manager.check_pending()  # hooks of other names altogether
    for hook, kind in HOOKS.items():
        for specs in getattr(manager.hook, hook)():
            for number, spec in enumerate(specs):
                if not isinstance(spec, kind.spec):
                    raise PluginError(f"{hook} must yield {kind.spec.__name__}, got {type(spec).__name__}")
                if number >= MOST:
                    raise PluginError(f"{hook} yields more than {MOST} specs; end its loop")
                check_fields(spec)
                yield kind, spec


def check_interface(declared: Any) -> None:
    """Raise PluginError where a plugin was written against another interface than the present one."""
    if declared == INTERFACE and not isinstance(declared, bool):
        return
    if not isinstance(declared, int) or isinstance(declared, bool):
        raise PluginError(f"tokenreduce_interface must be a whole number (now: {INTERFACE}), got {declared!r}")
    change = (
        "install a newer tokenreduce, or an older version of the plugin"
        if declared > INTERFACE
        else f"install a newer version of the plugin; its author adapts it and sets tokenreduce_interface = {INTERFACE}"
    )
    raise PluginError(f"it is written against interface {declared}, this tokenreduce has {INTERFACE}: {change}")


def check_hooks(plugin: Any) -> None:
    """Raise PluginError for a function that is meant to be a hook and is none: misspelt, or not marked."""
    for name in dir(plugin):
        function = inspect.getattr_static(plugin, name, None)
        if not name.startswith(f"{PROJECT}_") or not inspect.isroutine(function):
            continue
        marked = hasattr(function, f"{PROJECT}_impl")
        close = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.8)
        spelling = f", spelt {close[0]}" if close and close[0] != name else ""
        if marked and name not in HOOKS:
            raise PluginError(f"there is no hook {name}; write one of: {', '.join(close or HOOKS)}")
        if not marked and close:
            raise PluginError(f"{name} is not marked as a hook, so nothing calls it; put @hookimpl above it{spelling}")
