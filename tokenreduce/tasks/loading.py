"""From what is typed after ``--model`` to a task. Knows no model by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    OptionError,
    PluginError,
    TokenReduceError,
    UnknownNameError,
    UnsupportedModelError,
    nearest,
    reason_of,
)
from ..registry.registry import Registry
from .loader import Loader, Record
from .records import read_records

if TYPE_CHECKING:
    from .task import Task


def load_task(registry: Registry, name: str, data: str | Path | None = None) -> Task:
    """The task of a name: a registered one, or a model that a loader reads, with a file of records.

    Args:
        registry: where tasks and loaders are found.
        name: a task's name, else ``"LOADER:NAME"``, else what the first loader takes that accepts it and has its
            library here, those that guess last.
        data: a data file (:func:`tokenreduce.tasks.read_records`); None for a registered task, which has its own, and
            where only pictures are shown.

    Raises:
        UnknownNameError: neither a task nor anything that a loader takes.
        OptionError: data for a task that has its own; or the data file or model files are not as they should be.
        UnsupportedModelError: a model that the loader cannot ask.
        PluginError: the plugin is broken, or lacks its library.
    """
    if name in registry.tasks or _is_broken(registry, name):
        if data is not None:
            raise OptionError(f"the task {name!r} has its own data; leave {str(data)!r} (--data) out, or name a model")
        return _own_task(registry, name)
    records = [] if data is None else read_records(data)
    prefix, colon, rest = name.partition(":")
    if colon and (prefix in registry.loaders or _is_broken(registry, prefix)):
        if not rest:
            raise OptionError(f"expected a model after {name!r}, got nothing; type {prefix}:NAME")
        return _load(registry, prefix, name, rest, records)
    failed: list[str] = []
    loader = _find(registry, name, failed)
    if loader is None:
        raise UnknownNameError(_unknown(registry, name, failed))
    try:
        return _load(registry, loader, name, name, records)
    except UnsupportedModelError as error:
        others = ", ".join(other for other in registry.loaders if other != loader) or "none"
        reason = str(error).rstrip(".")
        raise UnsupportedModelError(
            f"{reason}. (Read by the loader {loader!r}; LOADER:NAME names another: {others}.)"
        ) from error


def load_model(registry: Registry, folder: str | Path, options: Mapping[str, Any]) -> Any:
    """The model of a folder, by the first loader that accepts it and has its library here, those that guess last.

    Args:
        options: for what reads it.

    Raises:
        UnknownNameError: no loader takes the folder. UnsupportedModelError: it cannot be read.
        OptionError: the loader reads no models by themselves. PluginError: the plugin is broken, or lacks its library.
    """
    failed: list[str] = []
    name = str(folder)
    loader = _find(registry, name, failed)
    if loader is None:
        raise UnknownNameError(_unknown(registry, name, failed))
    with registry.blame("loader", loader):
        return _make(registry, loader).model(name, **options)


def _find(registry: Registry, name: str, failed: list[str]) -> str | None:
    """The first loader that accepts the name and has its library, those that guess last.

    Why a loader could not be asked goes to ``failed``.
    """
    guessed: str | None = None
    for candidate, entry in registry.loaders.items():
        if not entry.usable:
            continue
        try:
            loader = _make(registry, candidate)
            if not loader.accepts(name):
                continue
            if not loader.guesses:
                return candidate
            guessed = guessed or candidate
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a loader may raise anything; the others still get their turn
            failed.append(f"the loader {candidate!r} of {entry} failed: {reason_of(error)}")
    return guessed


def _load(registry: Registry, loader: str, name: str, rest: str, records: list[Record]) -> Task:
    from .task import Task

    entry = registry.entry("loader", loader)
    if not entry.usable:
        raise PluginError(f"the loader {loader!r} needs {entry.missing}: {entry.install}")
    made = _make(registry, loader)
    try:
        task = made.task(rest, records)
    except TokenReduceError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a loader may raise anything
        raise PluginError(f"the loader {loader!r} of {entry} failed on {rest!r}: {reason_of(error)}") from error
    if not isinstance(task, Task):
        raise PluginError(f"the loader {loader!r} of {entry} must give a tokenreduce.Task, got {type(task).__name__}")
    return dataclasses.replace(task, name=name)


def _own_task(registry: Registry, name: str) -> Task:
    """A registered task."""
    from .task import Task

    with registry.blame("task", name):
        made = registry.load("task", name)()
    if not isinstance(made, Task):
        entry = registry.entry("task", name)
        raise PluginError(f"{entry.spec.target} of {entry} must give a tokenreduce.Task, got {type(made).__name__}")
    return made


def _make(registry: Registry, loader: str) -> Loader:
    made = registry.load("loader", loader)()
    if not isinstance(made, Loader):
        entry = registry.entry("loader", loader)
        raise PluginError(f"{entry.spec.target} of {entry} is not a subclass of tokenreduce.tasks.Loader")
    return made


def _unknown(registry: Registry, name: str, failed: list[str]) -> str:
    """What could have been typed."""
    lines = [f"no task is called {name!r}, and no loader takes it.{nearest(name, registry.tasks)}"]
    if Path(name).is_dir():
        lines = [f"the folder {name!r} is here, but no loader knows what is in it (no config.json of a model?)."]
    for loader, entry in registry.loaders.items():
        takes = getattr(entry.spec, "models", "") or entry.spec.description
        lacks = "" if entry.usable else f" (needs {entry.missing}: {entry.install})"
        lines.append(f"  {loader}: {takes}{lacks}")
    if registry.loaders:
        lines.insert(1, "Models are read by these loaders, and LOADER:NAME names one of them:")
    return "\n".join([*lines, *(f"  {line}" for line in failed)])


def _is_broken(registry: Registry, name: str) -> bool:
    return any(name in broken.names for broken in registry.broken)
