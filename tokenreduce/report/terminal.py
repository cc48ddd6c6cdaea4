"""An ablation as tables and lines in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich import box
from rich.table import Table
from rich.text import Text

from ..lab.result import Result, Row
from ..lab.verdict import break_even_line

Column = tuple[str, Callable[[Row], str]]


def accuracy(result: Result, title: str) -> Table:
    """One row per reducer: accuracy against what it leaves of tokens and multiply-adds."""
    columns: list[Column] = [
        ("accuracy", lambda row: percent(row.accuracy)),
        ("95 %", _interval),
        ("change", _change),
        ("p", _adjusted),
        ("tokens", lambda row: "-" if row.tokens is None else str(row.tokens)),
        ("MACs (M)", lambda row: "-" if row.macs is None else f"{row.macs / 1e6:.0f}"),
        (f"of {result.setup.get('baseline', 'baseline')}", lambda row: percent(row.macs_share, 0)),
    ]
    return _table(result, title, columns)


def cost(result: Result) -> Table:
    """One row per reducer: time at each batch size, the reduction's own share of it, and memory."""
    sizes = sorted({pace.batch for row in result.rows for pace in row.paces})
    columns: list[Column] = [
        ("ms at\nbatch 1", lambda row: "-" if (pace := row.pace(1)) is None else f"{1000 * pace.median:.1f}"),
        (f"samples/s\nat {sizes[-1] if sizes else '-'}", _throughput),
        *((f"speed-up\nat {size}", partial(_speedup, size=size)) for size in sizes),
        ("overhead", lambda row: percent(row.overhead)),
        ("peak\n(MiB)", lambda row: _mebibytes(row.peak_memory_bytes)),
        ("training\n(MiB)", lambda row: _mebibytes(row.training_memory_bytes)),
    ]
    batch = next((row.memory_batch for row in result.rows if row.memory_batch), None)
    return _table(result, f"cost (memory of a batch of {batch})", columns)


def _table(result: Result, title: str, columns: list[Column]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("reducer", no_wrap=True)
    for heading, _ in columns:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row in result.rows:
        if row.failed is not None:
            rest = ["-"] * (len(columns) - 1)
            table.add_row(Text(row.name, style="red"), Text("failed", style="red"), *rest)
        else:
            table.add_row(Text(row.name), *[cell(row) for _, cell in columns])
    return table


def groups(result: Result) -> Table | None:
    """Accuracy per group of samples, if the task has groups."""
    names = sorted({group for row in result.rows for group in row.groups})
    if not names:
        return None
    table = Table(title="accuracy by group", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reducer", no_wrap=True)
    for name in names:
        table.add_column(Text(name), justify="right")
    for row in result.rows:
        if row.failed is None:
            table.add_row(Text(row.name), *[f"{100 * row.groups.get(name, float('nan')):.1f} %" for name in names])
    return table


def remarks(result: Result) -> list[str]:
    """What is to be said of the rows: verdicts, from where on they pay, notes, and what was left out."""
    lines = [f"{row.name}: {row.verdict}" for row in result.rows if row.verdict]
    lines += [f"{row.name}: {line}" for row in result.rows if (line := break_even_line(row))]
    lines += [f"{row.name}: {note}" for row in result.rows for note in row.notes]
    return [*lines, *result.setup.get("notes", [])]


def p_value(p: float) -> str:
    """A p-value as people write it."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _interval(row: Row) -> str:
    return "" if row.interval is None else f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}"


def _change(row: Row) -> str:
    return "" if row.versus_baseline is None else f"{100 * row.versus_baseline.difference:+.1f}"


def _adjusted(row: Row) -> str:
    versus = row.versus_baseline
    return "" if versus is None else p_value(versus.p if versus.p_adjusted is None else versus.p_adjusted)


def _throughput(row: Row) -> str:
    pace = row.pace()
    return "-" if pace is None else f"{pace.throughput:.0f}"


def _speedup(row: Row, size: int) -> str:
    pace = row.pace(size)
    return "-" if pace is None else f"{pace.speedup:.2f} ± {pace.spread:.2f}"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f}"
