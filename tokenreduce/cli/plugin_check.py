"""Loads everything that the plugins offer and says what is wrong: ``tokenreduce list --check``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import PluginError
from ..registry.provenance import foreign_path
from ..registry.registry import Entry, Registry

KINDS = ("reducer", "adapter", "task", "preset", "loader")


def check_plugins(registry: Registry) -> tuple[list[str], list[str]]:
    """Problems, one line each, and what could not be checked because a library is not installed."""
    problems = [f"{broken}: {broken.reason}" for broken in registry.broken]
    skipped, checked = [], []
    wanted = expectations()
    for kind in KINDS:
        for name, entry in getattr(registry, f"{kind}s").items():
            if not entry.usable:
                skipped.append(f"{kind} {name!r} of {entry}: {entry.library} is not installed")
                continue
            problem = wrong_target(entry, *wanted[kind])
            problems += [f"{kind} {name!r} of {entry}: {problem}"] if problem else []
            checked.append(entry)
    problems += foreign_modules(checked)
    return [" ".join(problem.split()) for problem in dict.fromkeys(problems)], skipped


def wrong_target(entry: Entry, fits: Callable[[Any], bool], expected: str) -> str | None:
    """Why an entry cannot be used: it cannot be imported, or is of another kind."""
    try:
        made = entry.spec.load()
    except PluginError as error:
        return str(error)
    return None if fits(made) else f"{entry.spec.target} must be {expected}, got {_told(made)}; correct its spec"


def foreign_modules(entries: list[Entry]) -> list[str]:
    """Modules of these entries that come from elsewhere than their distributions, the first one of each package."""
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        for module in (entry.module, entry.spec.target.partition(":")[0]):
            key, place = (entry.distribution, module.partition(".")[0]), foreign_path(module, entry.distribution)
            if place is not None and key not in found:
                found[key] = (
                    f"{entry}: module {module} was imported from {place}, which is no file of {entry.distribution} "
                    f"{entry.version}; remove or rename what is found first on the path (PYTHONPATH), or reinstall"
                )
    return list(found.values())


def expectations() -> dict[str, tuple[Callable[[Any], bool], str]]:
    """By kind: whether an object is what a spec of it must name, and that in words."""
    from ..backbones.adapter import Adapter
    from ..methods.reducer import Reducer
    from ..tasks.loader import Loader

    def subclass(base: type) -> tuple[Callable[[Any], bool], str]:
        name = f"a subclass of tokenreduce.{base.__name__}"
        return (lambda made: inspect.isclass(made) and issubclass(made, base) and made is not base), name

    return {
        "reducer": subclass(Reducer),
        "adapter": subclass(Adapter),
        "task": (callable, "a function that returns a tokenreduce.Task"),
        "preset": (callable, "a function that returns a request or its mapping"),
        "loader": subclass(Loader),
    }


def _told(made: Any) -> str:
    return f"the class {made.__module__}.{made.__qualname__}" if inspect.isclass(made) else repr(made)
