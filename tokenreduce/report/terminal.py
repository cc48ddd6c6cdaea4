"""An ablation as tables and lines in the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..lab.result import Result, Row
from ..lab.verdict import break_even_line
from .formatting import (
    NONE,
    interval,
    macs,
    mean_spread,
    number,
    one_line,
    p_value,
    percent,
    plus_minus,
    points,
    seconds,
    size,
)
from .formatting import throughput as rate
from .page_table import group_table
from .series import measure

GAP = 2  # cells between columns
LOOK: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
LOOK |= {"padding": (0, GAP - 1, 0, 0)}
LEAST, NAME, HEADING = 14, 40, 16  # cells that names have at least, and beyond which they and headings are folded
GROUPS = 40


@dataclass(frozen=True)
class Column:
    """A heading, which may have several lines, and a cell for each row."""

    heading: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """Cells that it needs, so that no number is cut."""
        headings = [min(cell_len(line), HEADING) for line in self.heading.split("\n")]
        return max([1, *headings, *(cell_len(cell) for cell in self.cells)])


def terminal() -> Console:
    """For tables: as wide as the terminal or ``COLUMNS``, 120 cells where there is neither."""
    out = Console(highlight=False, markup=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out = Console(highlight=False, markup=False, width=120)
    return out


def print_result(result: Result, name: str = "ablation", out: Console | None = None) -> None:
    """Print the tables of an ablation: accuracy, cost, groups, and remarks such as verdicts.

    Args:
        result: of :func:`tokenreduce.ablate`.
        name: for the title, such as that of the model or task.
        out: where to; standard output if left out.
    """
    out = out or terminal()
    data, cells = result.setup["data"], result.setup["cells"]
    if cells["kept"]:
        total = sum(cells.values())
        out.print(f"{cells['kept']} of {total} cells were kept from earlier runs (--fresh works them out)\n")
    title = f"{one_line(name)}: {data['samples']} samples, batch {data['batch']}"
    for part in (*accuracy(result, title, out.width), *cost(result, out.width), *groups(result, out.width)):
        out.print(part, "")
    for line in remarks(result):
        out.print(line)


def tables(title: str, corner: str, names: Sequence[str], columns: Sequence[Column], width: int) -> Iterator[Table]:
    """A table, or several below one another where the columns do not fit side by side: no cell is ever cut.

    Args:
        corner: heading of the names.
        names: what the rows are called; a long one goes on in the next line.
        width: cells that there are.
    """
    said = [one_line(name) for name in names]
    over = width - sum(GAP + column.width for column in columns)  # for the names, where all columns are side by side
    least = min(max(cell_len(word) for name in [corner, *said] for word in [*name.split(), ""]), NAME, width // 3)
    first = min(max(map(cell_len, [corner, *said])), NAME, over if over >= max(least, LEAST) else width // 3)
    left = list(columns)
    while left:
        here = [left.pop(0)]
        while left and first + sum(GAP + column.width for column in [*here, left[0]]) <= width:
            here.append(left.pop(0))
        table = Table(title=Text(title if len(here) + len(left) == len(columns) else f"{title}, continued"), **LOOK)
        table.add_column(corner, width=first, overflow="fold")
        for column in here:
            table.add_column(Text(column.heading), width=column.width, justify="right", overflow="fold")
        for place, name in enumerate(said):
            table.add_row(Text(name), *(Text(column.cells[place]) for column in here))
        yield table


def accuracy(result: Result, title: str, width: int) -> Iterator[Table]:
    """One row per reducer: accuracy against what it leaves of tokens and multiply-adds."""
    rows, baseline = result.rows, one_line(result.setup.get("baseline", "baseline"))
    tenth = partial(number, digits=1)
    columns = [
        Column("accuracy", ["failed" if row.failed is not None else percent(row.accuracy) for row in rows]),
        Column("95 %", [interval(row.interval) for row in rows]),
        Column("change", [points(row.versus_baseline.difference) if row.versus_baseline else "" for row in rows]),
        Column("p", [_adjusted(row) for row in rows]),
        Column("tokens", [mean_spread(number(row.tokens), row.tokens_spread, tenth) for row in rows]),
        Column("MACs", [mean_spread(macs(row.macs), row.macs_spread, macs) for row in rows]),
        Column(f"of {baseline}", [percent(row.macs_share, 0) for row in rows]),
    ]
    return tables(title, "reducer", [row.name for row in rows], columns, width)


def cost(result: Result, width: int) -> Iterator[Table]:
    """One row per reducer that has a result: time at each batch size, the reduction's own share of it, and memory."""
    rows = [row for row in result.rows if row.failed is None]
    sizes = sorted({pace.batch for row in rows for pace in row.paces})
    largest = sizes[-1] if sizes else NONE
    batch = next((row.memory_batch for row in rows if row.memory_batch), None)
    columns = [
        Column("latency\nbatch 1", [seconds(measure(row.pace(1), "median")) for row in rows]),
        Column(f"samples/s\nbatch {largest}", [rate(measure(row.pace(), "throughput")) for row in rows]),
        *(Column(f"speed-up\nbatch {count}", [_speedup(row, count) for row in rows]) for count in sizes),
        Column("overhead", [percent(row.overhead) for row in rows]),
        Column("memory\npeak", [size(row.peak_memory_bytes) for row in rows]),
        Column("memory\ntraining", [size(row.training_memory_bytes) for row in rows]),
    ]
    return tables(f"cost (memory of a batch of {number(batch)})", "reducer", [row.name for row in rows], columns, width)


def groups(result: Result, width: int) -> Iterator[Table | str]:
    """Accuracy per group of samples, if the task has groups: a row for each of the first of them."""
    made = group_table(result)
    lines = [line for body in made.bodies for line in body]
    shown = lines[:GROUPS]
    columns = [
        Column(one_line(name), [line.cells[i].main for line in shown]) for i, (_, name) in enumerate(made.columns)
    ]
    yield from tables("accuracy by group", "group", [line.name for line in shown], columns, width)
    if len(lines) > GROUPS:
        yield f"and {len(lines) - GROUPS} more groups, which --json and --report have"


def remarks(result: Result) -> list[str]:
    """What is to be said of the rows: verdicts, from where on they pay, notes, and what was left out."""
    rows = result.rows
    lines = [f"{row.name}: {row.verdict}" for row in rows if row.verdict]
    lines += [f"{row.name}: {line}" for row in rows if (line := break_even_line(row))]
    lines += [f"{row.name}: {note}" for row in rows for note in row.notes]
    return [one_line(line) for line in [*lines, *result.setup.get("notes", [])]]


def _adjusted(row: Row) -> str:
    found = row.versus_baseline
    return "" if found is None else p_value(found.p if found.p_adjusted is None else found.p_adjusted)


def _speedup(row: Row, batch: int) -> str:
    pace = row.pace(batch)
    return plus_minus(measure(pace, "speedup"), measure(pace, "spread"))
