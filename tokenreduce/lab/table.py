"""An ablation as one table in the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .runner import Result, Row


def render(result: Result, title: str) -> Table:
    """One row per reducer, one column per measure."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    columns = [
        "reducer",
        "accuracy",
        "change",
        "tokens",
        "MACs\n(M)",
        "samples\n/s",
        "speed-up",
        "peak\n(MiB)",
        "training\n(MiB)",
    ]
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in result.rows:
        if row.failed is not None:
            table.add_row(Text(row.reducer, style="red"), Text("failed", style="red"), *["-"] * 7)
        else:
            table.add_row(Text(row.reducer), *_cells(row))
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
            table.add_row(Text(row.reducer), *[f"{100 * row.groups.get(name, float('nan')):.1f} %" for name in names])
    return table


def _cells(row: Row) -> list[str]:
    assert row.accuracy is not None and row.macs is not None
    change = "" if row.accuracy_change is None else f"{100 * row.accuracy_change:+.1f}"
    speed = "-" if row.speedup is None else f"{row.speedup:.2f} ± {row.speedup_spread:.2f}"
    pace = "-" if row.throughput is None else f"{row.throughput:.0f}"
    return [
        f"{100 * row.accuracy:.1f} %",
        change,
        str(row.tokens),
        f"{row.macs / 1e6:.0f}",
        pace,
        speed,
        *[f"{(size or 0) / 2**20:.0f}" for size in (row.peak_memory_bytes, row.training_memory_bytes)],
    ]
