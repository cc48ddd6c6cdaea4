"""The rows of a result as lines of a chart: which rows make a line, its colour and sign, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..lab.result import BatchTiming, Result, Row
from .formatting import finite
from .svg import INK, SOFT, element, short

COLOURS = 8  # the page may set --c0 to --c7
DEFAULTS = ("#0b62a8", "#c04a00", "#00795a", "#9a3d8d", "#8f6a00", "#b8324f", "#3a7f92", "#6150c4")
DASHES = (None, "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """Rows of one variant, by rising ratio, and how they are drawn.

    Args:
        name: of the variant, or of the only row.
        rows: those with a result.
        colour: CSS.
        sign: number of the marker.
        dash: of the line, None for a whole one.
    """

    name: str
    rows: tuple[Row, ...]
    colour: str
    sign: int
    dash: str | None


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
        rows.sort(key=_level)
        if role == "baseline":
            made.append(Line(name, tuple(rows), INK, 0, None))
        elif role == "control":
            made.append(Line(name, tuple(rows), SOFT, 1 + controls % (len(SIGNS) - 1), DASHES[1 + controls % 3]))
            controls += 1
        else:
            at = methods % COLOURS
            dash = DASHES[methods // COLOURS % len(DASHES)]
            made.append(Line(name, tuple(rows), f"var(--c{at}, {DEFAULTS[at]})", 1 + methods % (len(SIGNS) - 1), dash))
            methods += 1
    return made


def _level(row: Row) -> float:
    """By how much is asked to go."""
    if row.ratio is not None:
        return row.ratio
    return 0.0 if row.target_macs is None else -row.target_macs


def level(row: Row) -> str:
    """The row's level in words, "" where it has none."""
    if finite(row.ratio) is not None:
        return f"{100 * (row.ratio or 0):.3g} % gone"
    if finite(row.target_macs) is not None:
        return f"{100 * (row.target_macs or 0):.3g} % of MACs"
    return ""


def measure(pace: BatchTiming | None, name: str) -> float | None:
    """``throughput``, ``speedup``, ``spread`` or ``median`` of a pace; None where it has no usable times."""
    if pace is None:
        return None
    try:
        return finite(getattr(pace, name))
    except (ValueError, ZeroDivisionError, IndexError, TypeError):  # no times, none longer than 0
        return None


def throughput(row: Row) -> float | None:
    """Samples per second at the largest batch."""
    return measure(row.pace(), "throughput")


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


SIGNS = (
    "M0 -6 L1.5 -1.9 L5.7 -1.9 L2.3 0.7 L3.5 4.9 L0 2.4 L-3.5 4.9 L-2.3 0.7 L-5.7 -1.9 L-1.5 -1.9 Z",  # star
    "M-4 0 A4 4 0 1 1 4 0 A4 4 0 1 1 -4 0 Z",  # disc
    "M-3.6 -3.6 H3.6 V3.6 H-3.6 Z",  # square
    "M0 -4.6 L4.5 3.3 L-4.5 3.3 Z",  # triangle
    "M0 -5 L5 0 L0 5 L-5 0 Z",  # diamond
    "M0 4.6 L4.5 -3.3 L-4.5 -3.3 Z",  # triangle downwards
    "M-1.6 -4.6 H1.6 V-1.6 H4.6 V1.6 H1.6 V4.6 H-1.6 V1.6 H-4.6 V-1.6 H-1.6 Z",  # cross
)


def marker(line: Line, x: float, y: float, *inside: str) -> str:
    """The line's sign at a point."""
    return element(
        "path",
        *inside,
        d=SIGNS[line.sign],
        transform=f"translate({short(x)} {short(y)})",
        fill=line.colour,
        stroke="var(--paper, #ffffff)",
    )


def swatch(line: Line) -> str:
    """A short piece of the line with its sign, for a legend."""
    stroke = element(
        "path", d="M1 7 H29", fill="none", stroke=line.colour, stroke_width=1.8, stroke_dasharray=line.dash
    )
    return element(
        "svg",
        stroke,
        marker(line, 15, 7),
        viewBox="0 0 30 14",
        width=30,
        height=14,
        class_="swatch",
        aria_hidden="true",
    )
