"""The verdicts of a result, sorted: what beat its control, what did not, what cannot be compared; and break-even."""

from __future__ import annotations

from dataclasses import dataclass

from ..lab.result import Result, Row
from ..lab.verdict import ALPHA, break_even_line
from .formatting import finite, number, one_line, points
from .series import level

KINDS = {
    "beat": ("▲", "beats its control"),
    "level": ("=", "no difference shown"),
    "lost": ("▼", "worse than its control"),
    "open": ("?", "not comparable"),
}
AS_GIVEN = "as given"


@dataclass(frozen=True)
class Grid:
    """Variants by levels; a cell is (kind, sign, difference in points, sentence), None where there is no such row."""

    levels: list[str]
    variants: list[tuple[str, list[tuple[str, str, str, str] | None]]]


@dataclass(frozen=True)
class Pays:
    """Speed-ups by number of image tokens: counts, and for each row a sentence and a speed-up at each count."""

    counts: list[str]
    rows: list[tuple[str, str, list[str]]]


def verdicts(result: Result) -> list[tuple[str, str, str, list[Row]]]:
    """(kind, sign, name, rows) of those kinds of verdict that some row has."""
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for row in _judged(result):
        found[standing(row)].append(row)
    return [(kind, *KINDS[kind], rows) for kind, rows in found.items() if rows]


def verdict_table(result: Result) -> Grid:
    """The same as a small table."""
    rows = _judged(result)
    levels = list(dict.fromkeys(level(row) or AS_GIVEN for row in rows))
    by_variant: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_variant.setdefault(row.variant or row.name, {})[level(row) or AS_GIVEN] = row
    variants = [
        (name, [_cell(found[at]) if at in found else None for at in levels]) for name, found in by_variant.items()
    ]
    return Grid(levels, variants)


def pays(result: Result) -> Pays:
    """Rows whose speed-up was tried at several input sizes."""
    rows = [(row, row.break_even) for row in result.rows if row.failed is None]
    tried = [(row, found) for row, found in rows if found is not None and found.tried]
    counts = sorted({count for _, found in tried for count, _, _ in found.tried})
    listed = []
    for row, found in tried:
        at = {count: number(speedup, 2) for count, speedup, _ in found.tried}
        listed.append((row.name, break_even_line(row), [at.get(count, number(None)) for count in counts]))
    return Pays([number(count) for count in counts], listed)


def standing(row: Row) -> str:
    """``"beat"``, ``"lost"``, ``"level"`` or ``"open"``."""
    found = row.versus_control
    if found is None or finite(found.difference) is None or finite(found.p) is None:
        return "open"
    if found.p >= ALPHA or not found.difference:
        return "level"
    return "beat" if found.difference > 0 else "lost"


def _judged(result: Result) -> list[Row]:
    return [row for row in result.rows if row.failed is None and (row.verdict or row.versus_control is not None)]


def _cell(row: Row) -> tuple[str, str, str, str]:
    kind, found = standing(row), row.versus_control
    sentence = one_line(f"{row.name} {row.verdict or KINDS[kind][1]}")
    return kind, KINDS[kind][0], "" if found is None else points(found.difference), sentence
