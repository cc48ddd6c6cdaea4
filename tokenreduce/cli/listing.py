"""``tokenreduce list``: what is installed, from where, and what is broken. Imports no torch."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..registry.kinds import KINDS
from ..registry.registry import Registry, default_registry


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("list", help="reducers, adapters, tasks, presets and loaders, and what is broken")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="import everything; one line per problem, exit code 1")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the registry, broken plugins included; or check it."""
    registry = default_registry()
    if arguments.check:
        return _check(registry, arguments.json)
    if arguments.json:
        print(json.dumps(as_json(registry), indent=2))
    else:
        _print(registry)
    return 0


def as_json(registry: Registry) -> dict[str, Any]:
    """The registry as plain data."""
    return {
        **{
            kind.plural: [
                {
                    "name": name,
                    "description": entry.spec.description,
                    "distribution": entry.distribution,
                    "version": entry.version,
                    "plugin": entry.plugin,
                    "target": entry.spec.target,
                }
                for name, entry in registry.tables[kind.name].items()
            ]
            for kind in KINDS.values()
        },
        "broken": [vars(broken) for broken in registry.broken],
        "disabled": list(registry.disabled),
    }


def _check(registry: Registry, as_data: bool) -> int:
    from .plugin_check import check_plugins

    problems, skipped = check_plugins(registry)
    total = sum(map(len, registry.tables.values()))
    if as_data:
        print(json.dumps({"checked": total - len(skipped), "problems": problems, "skipped": skipped}, indent=2))
    else:
        print("\n".join([*problems, *(f"not checked: {line}" for line in skipped)] or [f"{total} specs: all in order"]))
    return 1 if problems else 0


def _print(registry: Registry) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for kind in KINDS.values():
        table = Table(title=kind.plural, title_justify="left", box=None, pad_edge=False)
        for column in ("name", "description", "distribution", "plugin"):
            table.add_column(column)
        for name, entry in registry.tables[kind.name].items():
            cells = (name, entry.spec.description, f"{entry.distribution} {entry.version}", entry.plugin)
            table.add_row(*map(Text, cells))
        console.print(table, "")
    for broken in registry.broken:
        line = f"broken: {broken}: {broken.reason}"
        console.print(Text(line, style="red"))
    if registry.disabled:
        console.print(Text(f"disabled by TOKENREDUCE_DISABLE_PLUGINS: {', '.join(registry.disabled)}"))
