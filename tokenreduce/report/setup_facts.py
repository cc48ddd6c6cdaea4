"""What a result says of its own making, as a page shows it: a headline, facts, and the command that repeats it."""

from __future__ import annotations

import shlex
from typing import Any

from ..lab.result import Result
from .formatting import number, one_line

ELSEWHERE = ("definitions", "notes", "command", "cells")
EMPTY: tuple[Any, ...] = (None, "", [], {})
FIRST = ("model", "data", "request", "machine", "versions", "plugins")


def headline(result: Result) -> tuple[str, str]:
    """Name of what was ablated, and a line of counts."""
    setup = result.setup
    model, data = setup.get("model"), setup.get("data")
    name = ""
    for value in (
        _entry(model, "name"),
        _entry(setup.get("request"), "model"),
        setup.get("task"),
        _entry(model, "class"),
    ):
        name = name or one_line(value or "", 80)
    if not name and isinstance(model, str):
        name = one_line(model, 80)
    samples = _entry(data, "samples") or setup.get("samples")
    parts = [f"{len(result.rows)} rows"]
    if isinstance(samples, int):
        parts.append(f"{number(samples)} samples")
    if isinstance(setup.get("rounds"), int):
        parts.append(f"{setup['rounds']} timed rounds")
    failed = sum(row.failed is not None for row in result.rows)
    if failed:
        parts.append(f"{failed} failed")
    return name or "a model", ", ".join(parts)


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
    names = [name for name in FIRST if name in setup] + [name for name in setup if name not in FIRST]
    found, alone = [], []
    for name in names:
        value = setup[name]
        if name in ELSEWHERE or value in EMPTY:
            continue
        if not isinstance(value, dict):
            alone.append((one_line(name).replace("_", " "), text_of(value)))
            continue
        pairs = [
            (one_line(key).replace("_", " "), text_of(own))
            for key, own in value.items()
            if own not in EMPTY and key != "command"
        ]
        if pairs:
            found.append((one_line(name).replace("_", " "), pairs))
    return [*found, ("run", alone)] if alone else found


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
