"""Loads everything that the plugins offer and says what is wrong: ``tokenreduce list --check``."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import guard
from ..registry.kinds import KINDS, Kind
from ..registry.provenance import foreign_path
from ..registry.registry import Entry, Registry
from ..registry.spec import load_target


def check_plugins(registry: Registry) -> tuple[list[str], list[str]]:
    """Problems, one line each, and what could not be checked because a library is not installed."""
    problems = [f"{broken}: {broken.reason}" for broken in registry.broken]
    skipped, checked = [], []
    for kind in KINDS.values():
        for name, entry in registry.tables[kind.name].items():
            if not entry.usable:
                skipped.append(f"{kind.name} {name!r} of {entry}: {entry.missing} is not installed")
                continue
            problem = wrong_target(entry, kind)
            problems += [f"{kind.name} {name!r} of {entry}: {problem}"] if problem else []
            checked.append(entry)
    problems += foreign_modules(checked)
    return [" ".join(problem.split()) for problem in dict.fromkeys(problems)], skipped


def wrong_target(entry: Entry, kind: Kind) -> str | None:
    """Why an entry cannot be used: it cannot be imported, or is of another kind."""
    reasons: list[str] = []
    with guard(reasons.append):
        made = entry.spec.load()
        if not (callable(made) if not kind.base else _derives(made, load_target(kind.base))):
            got = f"the class {made.__module__}.{made.__qualname__}" if inspect.isclass(made) else repr(made)
            reasons.append(f"{entry.spec.target} must be {kind.expected}, got {got}; correct its spec")
    return reasons[0] if reasons else None


def foreign_modules(entries: list[Entry]) -> list[str]:
    """Modules of these entries that come from elsewhere than their distributions, the first one of each package."""
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        for module in (entry.module, entry.spec.target.partition(":")[0]):
            key, place = (entry.distribution, module.partition(".")[0]), foreign_path(module, entry.distribution)
            if place is not None and key not in found:
                found[key] = (
                    f"{entry}: module {module} was imported from {place}, which is not a file of {entry.distribution} "
                    f"{entry.version}; remove or rename what is found first on the path (PYTHONPATH), or reinstall"
                )
    return list(found.values())


def _derives(made: Any, base: type) -> bool:
    return inspect.isclass(made) and issubclass(made, base) and made is not base
