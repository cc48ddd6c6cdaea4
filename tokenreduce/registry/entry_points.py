"""The entry points of the installed distributions, each read on its own, and what plugins may do to standard output."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import guard

UNKNOWN = ("unknown", "?")


@dataclass(frozen=True)
class Point:
    """An entry point, and name and version of its distribution."""

    point: importlib.metadata.EntryPoint
    distribution: str
    version: str


def entry_points(group: str) -> tuple[list[Point], list[tuple[str, str, str]]]:
    """Entry points of a group in the order of the path, and (distribution, version, reason) where they cannot be read.

    Of distributions of one name the first on the path counts, as it does for imports.
    """
    found: list[Point] = []
    damaged: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for dist in importlib.metadata.distributions():
        reasons: list[str] = []
        origin = origin_of(dist)
        with guard(reasons.append):
            points = [point for point in dist.entry_points if point.group == group]
            name = str(getattr(dist, "_normalized_name", None) or origin[0])
            found += [] if name in seen else [Point(point, *origin) for point in points]
            seen.add(name)
        damaged += [(*origin, f"its entry points cannot be read: {reason}") for reason in reasons]
    return found, damaged


def origin_of(dist: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version of a distribution, as far as its metadata can be read."""
    origin = [UNKNOWN]
    with guard(lambda reason: None):
        origin = [(str(dist.metadata["Name"] or UNKNOWN[0]), str(dist.version or UNKNOWN[1]))]
    return origin[0]


@contextlib.contextmanager
def output_apart() -> Iterator[None]:
    """A context in which what is printed goes to the error stream: a plugin's words are no part of a command's output.

    A plugin that closes or replaces ``sys.stdout`` harms nobody.
    """
    with contextlib.redirect_stdout(_Errors()):
        yield


class _Errors(io.TextIOBase):
    """Writes to the error stream, whatever that is at the time; cannot be closed."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if sys.stderr is not None:
            sys.stderr.write(text)
        return len(text)

    @property
    def buffer(self) -> Any:
        return sys.stderr.buffer

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def close(self) -> None:
        pass
