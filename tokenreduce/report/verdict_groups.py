"""The verdicts of a result, sorted: what beat its control, what did not, what cannot be compared; and break-even."""

from __future__ import annotations

from ..lab.result import Result, Row
from ..lab.verdict import ALPHA, break_even_line
from .formatting import NONE, finite, number, one_line, points
from .page_table import Cell, Line, Table
from .series import level

KINDS = {
    "beat": ("▲", "beats its control"),
    "level": ("=", "no difference shown"),
    "lost": ("▼", "worse than its control"),
    "open": ("?", "not comparable"),
}
AS_GIVEN = "as given"


def verdicts(result: Result) -> list[tuple[str, str, str, list[Row]]]:
    """(kind, sign, name, rows) of those kinds of verdict that some row has."""
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for row in _judged(result):
        found[standing_of(row)].append(row)
    return [(kind, *KINDS[kind], rows) for kind, rows in found.items() if rows]


def verdict_table(result: Result) -> Table:
    """The same as a small table: variants by levels, differences in points."""
    by_variant: dict[str, dict[str, Row]] = {}
    for row in _judged(result):
        by_variant.setdefault(row.variant or row.name, {})[level(row) or AS_GIVEN] = row
    levels = list(dict.fromkeys(at for found in by_variant.values() for at in found))
    lines = [Line(name, [_cell(found.get(at)) for at in levels]) for name, found in by_variant.items()]
    return Table("against its control, in points", [("", at) for at in levels], [lines])


def break_even_table(result: Result) -> Table:
    """Rows whose speed-up was tried at several input sizes: the verdict, and the speed-up at each token count."""
    rows = [(row, row.break_even.tried) for row in result.rows if row.failed is None and row.break_even is not None]
    counts = sorted({count for _, tried in rows for count, _, _ in tried})
    lines = []
    for row, tried in rows:
        at = {count: number(speedup, 2) for count, speedup, _ in tried}
        if tried:
            lines.append(Line(row.name, [Cell(break_even_line(row)), *(Cell(at.get(count, NONE)) for count in counts)]))
    columns = [("", "verdict"), *(("Speed-up at", f"{number(count)} tokens") for count in counts)]
    return Table("row", columns, [lines] if lines else [], words=True)


def standing_of(row: Row) -> str:
    """``"beat"``, ``"lost"``, ``"level"`` or ``"open"``."""
    found = row.versus_control
    if found is None or finite(found.difference) is None or finite(found.p) is None:
        return "open"
    if found.p >= ALPHA or not found.difference:
        return "level"
    return "beat" if found.difference > 0 else "lost"


def _judged(result: Result) -> list[Row]:
    return [row for row in result.rows if row.failed is None and (row.verdict or row.versus_control is not None)]


def _cell(row: Row | None) -> Cell:
    if row is None:
        return Cell(NONE, kind="open")
    kind, found = standing_of(row), row.versus_control
    sentence = one_line(f"{row.name} {row.verdict or KINDS[kind][1]}")
    return Cell("" if found is None else points(found.difference), kind=kind, sign=KINDS[kind][0], title=sentence)
