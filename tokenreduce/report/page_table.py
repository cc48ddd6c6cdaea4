"""Tables of the page as plain data, and the main one: a row of the result in each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from ..lab.result import Result, Row
from .formatting import (
    NONE,
    finite,
    interval,
    macs,
    mean_spread,
    number,
    p_value,
    percent,
    points,
    seconds,
    size,
    throughput,
)
from .series import level, measure


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and smaller below it; ``kind`` is a class of the style sheet, ``sign`` goes with it."""

    main: str
    small: str = ""
    kind: str = ""
    sign: str = ""
    title: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table: its name, smaller below it what it is, and its cells, or why it has none."""

    name: str
    cells: list[Cell]
    about: str = ""
    failed: str | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        corner: what the row names are.
        columns: (group, name); columns side by side of one group have a heading above them.
        bodies: rows that belong together.
        words: the first column holds sentences.
    """

    corner: str
    columns: list[tuple[str, str]]
    bodies: list[list[Line]] = field(default_factory=list)
    words: bool = False

    def headings(self) -> list[tuple[str, list[str]]]:
        """Groups with the names of their columns."""
        return [(group, [name for _, name in found]) for group, found in groupby(self.columns, key=lambda c: c[0])]


def main_table(result: Result) -> Table:
    """The rows in their order, those of one variant together; columns that no row fills are left out."""
    rows = [row for row in result.rows if row.failed is None]
    shown = [c for c in _columns(rows) if c[1] in ALWAYS or any(c[2](row).main != NONE for row in rows)]
    bodies: dict[tuple[str, str], list[Line]] = {}
    for row in result.rows:
        made = [] if row.failed is not None else [cell(row) for *_, cell in shown]
        line = Line(row.name, made, _about(row), row.failed)
        bodies.setdefault((row.role, row.variant or row.name), []).append(line)
    return Table("row", [(group, name) for group, name, _ in shown], list(bodies.values()))


ALWAYS = ("accuracy, 95\N{NO-BREAK SPACE}%", "change", "tokens left", "MACs")


def _columns(rows: list[Row]) -> list[tuple[str, str, Callable[[Row], Cell]]]:
    """Group, name, and the cell of a row."""
    batches = sorted({pace.batch for row in rows for pace in row.paces})
    memory = sorted({row.memory_batch for row in rows if row.memory_batch is not None})
    of_batch = f"Memory, batch {' or '.join(map(str, memory))}" if memory else "Memory"
    return [
        ("", "accuracy, 95\N{NO-BREAK SPACE}%", lambda row: Cell(percent(row.accuracy), interval(row.interval))),
        ("", "change", _change),
        ("", "to control", _to_control),
        ("", "tokens left", _tokens),
        ("", "MACs", _macs),
        *(("Speed-up", f"batch {batch}", partial(_speed, batch=batch)) for batch in batches),
        (of_batch, "inference", lambda row: Cell(size(row.peak_memory_bytes))),
        (of_batch, "training", lambda row: Cell(size(row.training_memory_bytes))),
        ("", "overhead", lambda row: Cell(percent(row.overhead))),
    ]


def group_table(result: Result) -> Table:
    """Accuracy by group of samples: a row for each group, a column for each row of the result that has any."""
    rows = [row for row in result.rows if row.failed is None and row.groups]
    names = sorted({name for row in rows for name in row.groups}, key=str)
    lines = [Line(str(name), [Cell(percent(row.groups.get(name))) for row in rows]) for name in names]
    return Table("group", [("", row.name) for row in rows], [lines] if lines else [])


def _about(row: Row) -> str:
    """What stands below a row's name: its role, its level, the size of its pictures."""
    parts = [row.role, level(row)]
    if row.input_size is not None and f"{row.input_size[0]}x{row.input_size[1]}" not in row.name:
        parts.append(f"{row.input_size[0]} × {row.input_size[1]} pixels")
    return ", ".join(part for part in parts if part)


def _change(row: Row) -> Cell:
    found = row.versus_baseline
    if found is None:
        return Cell(NONE)
    adjusted = found.p_adjusted if finite(found.p_adjusted) is not None else found.p
    return Cell(points(found.difference), p_value(adjusted, named=True))


def _to_control(row: Row) -> Cell:
    found = row.versus_control
    return Cell(NONE) if found is None else Cell(points(found.difference), found.against, kind="named")


def _tokens(row: Row) -> Cell:
    apart = " + ".join(f"{number(count)} {name}" for name, count in row.tokens_by_stream.items())
    left = mean_spread(number(row.tokens), row.tokens_spread, partial(number, digits=1))
    return Cell(left, apart if len(row.tokens_by_stream) > 1 else "")


def _macs(row: Row) -> Cell:
    count = mean_spread(macs(row.macs), row.macs_spread, macs)
    return Cell(count, "" if finite(row.macs_share) is None else percent(row.macs_share, 0))


def _speed(row: Row, batch: int) -> Cell:
    """Speed-up and its spread; below it the time of one sample, or samples per second."""
    pace = row.pace(batch)
    ratio = measure(pace, "speedup")
    if pace is None or ratio is None:
        return Cell(NONE)
    rate = seconds(measure(pace, "median")) if pace.batch == 1 else f"{throughput(measure(pace, 'throughput'))} /s"
    return Cell(f"{number(ratio, 2)} ×", f"± {number(measure(pace, 'spread'), 2)}, {rate}")
