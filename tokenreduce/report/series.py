"""The rows of a result as lines of a chart: which rows make a line, its colour and marker, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..lab.result import BatchTiming, Result, Row
from .canvas import INK, LINES, SOFT
from .formatting import finite

DASHES: tuple[Any, ...] = ("-", (0, (4.5, 2)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))
MARKERS = "os^DvP"


@dataclass(frozen=True)
class Line:
    """Rows of one variant, by rising level.

    Args:
        name: of the variant, or of the only row.
        rows: those with a result.
        colour, marker, dash: as matplotlib takes them.
    """

    name: str
    rows: tuple[Row, ...]
    colour: str
    marker: str
    dash: Any


def lines(result: Result) -> list[Line]:
    """A line per variant in the order of the result; rows that failed are left out, a line without rows too.

    Baselines are in ink and controls in grey; methods have colours, and once these are used up other dashes.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        if row.failed is None:
            found.setdefault((row.role, row.variant or row.name), []).append(row)
    made: list[Line] = []
    methods = controls = 0
    for (role, name), rows in found.items():
        ordered = tuple(sorted(rows, key=_level))
        if role == "baseline":
            made.append(Line(name, ordered, INK, "*", DASHES[0]))
        elif role == "control":
            made.append(Line(name, ordered, SOFT, MARKERS[controls % len(MARKERS)], DASHES[1 + controls % 3]))
            controls += 1
        else:
            dash = DASHES[methods // len(LINES) % len(DASHES)]
            made.append(Line(name, ordered, LINES[methods % len(LINES)], MARKERS[methods % len(MARKERS)], dash))
            methods += 1
    return made


def _level(row: Row) -> float:
    """By how much is asked to go."""
    if row.ratio is not None:
        return row.ratio
    return 0.0 if row.target_macs is None else -row.target_macs


def level(row: Row) -> str:
    """The row's level in words, "" where it has none."""
    for value, words in ((row.ratio, "gone"), (row.target_macs, "of MACs")):
        if (share := finite(value)) is not None and abs(share) <= 1:
            return f"{100 * share:.3g} % {words}"
    return ""


def measure(pace: BatchTiming | None, name: str) -> float | None:
    """``throughput``, ``speedup``, ``spread`` or ``median`` of a pace; None where it has no usable times."""
    if pace is None:
        return None
    try:
        return finite(getattr(pace, name))
    except (ValueError, ArithmeticError, IndexError, TypeError):  # no times, none longer than 0
        return None


def pareto(
    points: Sequence[tuple[float, float]], better_across: Callable[[float, float], bool]
) -> list[tuple[float, float]]:
    """The points that no other one beats on both axes (up is better), from the best across to the highest.

    Args:
        points: (x, y).
        better_across: whether the first x is better than the second.
    """
    front = [
        (x, y)
        for x, y in set(points)
        if not any(
            (other_y >= y and better_across(other_x, x)) or (other_y > y and other_x == x)
            for other_x, other_y in points
        )
    ]
    return sorted(front, key=lambda point: point[1])
