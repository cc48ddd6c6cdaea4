"""The columns of the report's table, and a row's cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..lab.result import Result, Row
from .formatting import NONE, finite, macs, number, one_line, p_value, percent, points, seconds, size
from .series import level, measure


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and smaller below it."""

    main: str
    small: str = ""


@dataclass(frozen=True)
class Column:
    """One column: the group that it stands in, its name, and the cell of a row."""

    group: str
    name: str
    cell: Callable[[Row], Cell]


def columns(result: Result) -> list[Column]:
    """All columns that at least one row fills; accuracy, tokens and multiply-adds always."""
    rows = [row for row in result.rows if row.failed is None]
    batches = sorted({pace.batch for row in rows for pace in row.paces})
    memory = sorted({row.memory_batch for row in rows if row.memory_batch is not None})
    of_batch = f", batch {' or '.join(map(str, memory))}" if memory else ""
    made = [
        Column("Accuracy", "mean, 95 %", _accuracy),
        Column("Accuracy", "change", _change),
        Column("Accuracy", "to control", _to_control),
        Column("Work", "tokens left", _tokens),
        Column("Work", "MACs", lambda row: Cell(macs(row.macs), _share(row))),
    ]
    for batch in batches:
        made.append(Column(f"Batch {batch}", "samples/s", _throughput(batch)))
        made.append(Column(f"Batch {batch}", "speed-up", _speedup(batch)))
        if batch == 1:
            made.append(Column("Batch 1", "latency", _latency))
    made += [
        Column(f"Memory{of_batch}", "inference", lambda row: Cell(size(row.peak_memory_bytes))),
        Column(f"Memory{of_batch}", "training", lambda row: Cell(size(row.training_memory_bytes))),
        Column("", "overhead", lambda row: Cell(percent(row.overhead))),
    ]
    always = {"mean, 95 %", "change", "tokens left", "MACs"}
    return [c for c in made if c.name in always or any(c.cell(row).main != NONE for row in rows)]


def cells(row: Row, table: list[Column]) -> list[Cell]:
    """The cells of a row; none for a row that failed."""
    return [] if row.failed is not None else [column.cell(row) for column in table]


def about(row: Row) -> str:
    """What stands below a row's name: its role, its level, the size of its pictures."""
    parts = [row.role, level(row)]
    if row.input_size is not None and f"{row.input_size[0]}x{row.input_size[1]}" not in row.name:
        parts.append(f"{row.input_size[0]} × {row.input_size[1]} pixels")
    return ", ".join(part for part in parts if part)


def _accuracy(row: Row) -> Cell:
    ends = [end for end in row.interval or () if finite(end) is not None]
    between = f"{number(100 * ends[0], 1)} to {number(100 * ends[1], 1)}" if len(ends) == 2 else ""
    return Cell(percent(row.accuracy), between)


def _change(row: Row) -> Cell:
    found = row.versus_baseline
    if found is None:
        return Cell(NONE)
    adjusted = found.p_adjusted if finite(found.p_adjusted) is not None else found.p
    return Cell(points(found.difference), p_value(adjusted))


def _to_control(row: Row) -> Cell:
    found = row.versus_control
    return Cell(NONE) if found is None else Cell(points(found.difference), one_line(found.against, 22))


def _tokens(row: Row) -> Cell:
    apart = " + ".join(f"{number(count)} {name}" for name, count in row.tokens_by_stream.items())
    return Cell(number(row.tokens), apart if len(row.tokens_by_stream) > 1 else "")


def _share(row: Row) -> str:
    return "" if finite(row.macs_share) is None else percent(row.macs_share, 0)


def _throughput(batch: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        speed = measure(row.pace(batch), "throughput")
        return Cell(number(speed, 0 if (speed or 0) >= 100 else 1))

    return cell


def _speedup(batch: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        pace = row.pace(batch)
        ratio, spread = measure(pace, "speedup"), measure(pace, "spread")
        return Cell(
            NONE if ratio is None else f"{number(ratio, 2)} ×", "" if spread is None else f"± {number(spread, 2)}"
        )

    return cell


def _latency(row: Row) -> Cell:
    pace = row.pace(1)
    spread = measure(pace, "seconds_spread")
    return Cell(seconds(measure(pace, "median")), "" if spread is None else f"± {seconds(spread)}")
