"""What a result says of its own making, as a page shows it: a headline, facts, and the command that repeats it."""

from __future__ import annotations

import shlex
from typing import Any

from ..lab.result import Result
from .formatting import finite, number, one_line

ELSEWHERE = ("definitions", "notes", "command", "cells")
EMPTY: tuple[Any, ...] = (None, "", [], {})
FIRST = ("model", "data", "request", "machine", "versions", "plugins")


def headline(result: Result) -> tuple[str, str]:
    """Name of what was ablated, and a line of counts."""
    setup = result.setup
    model = setup.get("model")
    names = _entry(model, "name"), _entry(setup.get("request"), "model"), setup.get("task"), _entry(model, "class")
    name = next((one_line(name, 80) for name in (*names, model) if name and not isinstance(name, dict)), "a model")
    failed = sum(row.failed is not None for row in result.rows)
    counts = [(len(result.rows), "rows"), (_entry(setup.get("data"), "samples") or setup.get("samples"), "samples")]
    counts += [(setup.get("rounds"), "timed rounds"), (failed or None, "failed")]
    return name, ", ".join(f"{number(count)} {what}" for count, what in counts if finite(count) is not None)


def command(setup: dict[str, Any]) -> str:
    """The command line that was typed, "" where it is not known."""
    for place in (setup, setup.get("request")):
        value = _entry(place, "command")
        if isinstance(value, (list, tuple)) and value:
            return one_line(shlex.join(map(str, value)))
        if isinstance(value, str) and value:
            return one_line(value)
    return ""


def facts(setup: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything else in the setup: (name, pairs of key and text), the most telling first, what stands alone last."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    alone = []
    for name in dict.fromkeys([*(name for name in FIRST if name in setup), *setup]):
        value, said = setup[name], one_line(name).replace("_", " ")
        if name in ELSEWHERE or value in EMPTY:
            continue
        if isinstance(value, dict):
            known = {key: own for key, own in value.items() if own not in EMPTY and key != "command"}
            found.append((said, [(one_line(key).replace("_", " "), text_of(own)) for key, own in known.items()]))
        else:
            alone.append((said, text_of(value)))
    return [(name, pairs) for name, pairs in [*found, ("run", alone)] if pairs]


def text_of(value: Any, inner: bool = False) -> str:
    """A value in one line; ``inner``: it stands inside another."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(_pair(one_line(key), own) for key, own in value.items())
    if isinstance(value, (list, tuple)):
        said = ", ".join(text_of(own, inner=True) for own in value)
        return f"[{said}]" if inner else said
    return one_line(value)


def _pair(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{key} ({text_of(value)})" if value else key
    return f"{key}: {text_of(value, inner=True)}"


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
