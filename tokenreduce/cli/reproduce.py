"""``tokenreduce reproduce``: published numbers beside those that are measured here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..registry.registry import Registry, default_registry
from ..report.formatting import clean
from .output import quiet_progress_bars

if TYPE_CHECKING:
    from ..lab.reproduction import Reproduction


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "reproduce", help="published accuracy beside the measured one, on a checkpoint of yours"
    )
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="which publication; left out: list them")
    parser.add_argument("--model", metavar="NAME", help="a checkpoint: a hub id or folder, as for ablate")
    parser.add_argument("--data", metavar="PATH", help="its data: JSON lines, a table, or a folder of classes")
    parser.add_argument("--samples", type=int, default=1000, help="samples to evaluate (1000)")
    parser.add_argument("--batch", type=int, default=50, help="batch size (50)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List the presets, or run one."""
    registry = default_registry()
    if arguments.preset is None:
        if arguments.model or arguments.data:
            raise OptionError("expected a preset before --model and --data; 'tokenreduce reproduce' alone lists them")
        _list(registry)
        return 0
    quiet_progress_bars()
    registry.entry("reproduction", arguments.preset)  # raises with the names that are near
    for flag in ("model", "data"):
        if getattr(arguments, flag) is None:
            raise OptionError(
                f"--{flag} is missing: tokenreduce reproduce {arguments.preset} --model CHECKPOINT --data PATH"
            )
    for flag in ("samples", "batch"):
        if getattr(arguments, flag) < 1:
            raise OptionError(f"--{flag} must be a positive integer, got {getattr(arguments, flag)}")

    from ..lab.reproduction import publication, reproduce
    from ..lab.store import Store
    from ..tasks.loading import load_task

    publication(registry, arguments.preset)
    task = load_task(registry, arguments.model, arguments.data)
    made = reproduce(
        registry, arguments.preset, task, samples=arguments.samples, batch=arguments.batch, store=Store(None)
    )
    _print(made)
    return 0


def _list(registry: Registry) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("preset", "what it compares with", "source", box=None)
    for name, entry in registry.reproductions.items():
        table.add_row(name, clean(entry.spec.description), clean(getattr(entry.spec, "source", "")))
    Console().print(table)
    print("tokenreduce reproduce PRESET --model CHECKPOINT --data PATH")


def _print(made: Reproduction) -> None:
    from rich.console import Console
    from rich.table import Table

    told = made.publication
    print(f"{clean(told.paper)}, {clean(told.table)}\n{clean(told.model)}; {clean(told.score)} on {clean(told.data)}")
    table = Table(box=None)
    table.add_column("")
    for title in ("published", "measured", "95 %", "difference"):
        table.add_column(title, justify="right")
    for row in made.lines:
        published = "not stated" if row.published is None else f"{row.published:.1f}"
        change = "" if row.difference is None else f"{row.difference:+.1f}"
        table.add_row(clean(row.label), published, f"{row.measured:.1f}", f"{row.low:.1f} to {row.high:.1f}", change)
    Console().print(table)
    first, *others = made.lines
    for row in others:
        if first.published is not None and row.published is not None:
            print(
                f"{clean(row.label)}: published {row.published - first.published:+.1f} points, measured "
                f"{row.measured - first.measured:+.1f}"
            )
    for remark in made.remarks:
        print(f"note: {clean(remark)}")
