"""``tokenreduce ablate``: reducers side by side on a task."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..registry import default_registry


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("ablate", help="compare reducers on a model that has learnt a task")
    parser.add_argument("--model", metavar="TASK", help="task of the registry (default: the first)")
    parser.add_argument("--reducers", metavar="A,B,...", help="default: every reducer of the registry")
    parser.add_argument(
        "--set",
        metavar="REDUCER.OPTION=VALUE",
        action="append",
        default=[],
        help="an option, its value as JSON; may be given again (for example --set tome.r=13)",
    )
    parser.add_argument("--samples", type=int, default=1000, help="held-out samples to judge (1000)")
    parser.add_argument("--batch", type=int, default=50, help="batch size (50)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (7)")
    parser.add_argument("--seed", type=int, default=0, help="seed of torch's generator (0)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results, versions and options here")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON; exit code 1 when a row failed."""
    for name in ("samples", "batch", "rounds"):
        if getattr(arguments, name) < 1:
            raise OptionError(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    registry = default_registry()
    if arguments.model is None and not registry.tasks:
        raise OptionError("no task is installed; try: pip install 'tokenreduce[all]', then see 'tokenreduce list'")
    if arguments.json is not None and not arguments.json.resolve().parent.is_dir():
        raise OptionError(f"--json: the folder {arguments.json.parent} does not exist; make it first")
    name = arguments.model or next(iter(registry.tasks))
    overrides = parse_settings(arguments.set)
    names = [n.strip() for n in arguments.reducers.split(",") if n.strip()] if arguments.reducers else []
    names = list(dict.fromkeys(names))
    check_overrides(overrides, names or list(registry.reducers))

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..lab.runner import ablate
    from ..lab.table import groups, render

    out, bar = Console(highlight=False), Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=bar, transient=True) as progress:
        job = progress.add_task("loading", total=None)
        task = registry.load("task", name)()
        data = task.data(arguments.samples, min(arguments.batch, arguments.samples))
        if not names:
            names = list(registry.reducers) + [n for n, chosen in task.settings.items() if "reducer" in chosen]
        options = {n: {**task.settings.get(n, {}), **overrides.get(n, {})} for n in names}
        result = ablate(
            task.model,
            data,
            options,
            metric=task.metric,
            rounds=arguments.rounds,
            seed=arguments.seed,
            step=lambda what, done, total: progress.update(job, description=what, completed=done, total=total),
        )
    setup = result.setup
    title = f"{name}: {setup['samples']} held-out samples, batch {setup['batch']}, {setup['rounds']} timed rounds"
    if not out.is_terminal:
        out = Console(highlight=False, width=120)
    out.print(render(result, title))
    by_group = groups(result)
    if by_group is not None:
        out.print(by_group)
    for row in result.rows:
        for note in row.notes:
            out.print(f"{row.reducer}: {note}", markup=False)
    if arguments.json is not None:
        document = {"task": name, "command": ["tokenreduce", *sys.argv[1:]], **result.to_json()}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    for row in result.rows:
        if row.failed is not None:
            print(f"tokenreduce: {row.reducer} failed: {row.failed}", file=sys.stderr)
    return 0 if result.ok else 1


def check_overrides(overrides: dict[str, dict[str, Any]], names: list[str]) -> None:
    """Raise OptionError when an option is given for something that will not run."""
    strangers = sorted(set(overrides) - set(names))
    if strangers:
        raise OptionError(f"--set names {', '.join(strangers)}, which is not among the reducers {', '.join(names)}")


def parse_settings(settings: list[str]) -> dict[str, dict[str, Any]]:
    """``["tome.r=13"]`` to ``{"tome": {"r": 13}}``; a value that is not JSON is taken as text.

    Raises:
        OptionError: not of the form REDUCER.OPTION=VALUE.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for setting in settings:
        left, equals, value = setting.partition("=")
        reducer, dot, option = left.rpartition(".")
        if not equals or not dot or not reducer or not option:
            raise OptionError(f"--set takes REDUCER.OPTION=VALUE, for example tome.r=13, got {setting!r}")
        try:
            parsed.setdefault(reducer, {})[option] = json.loads(value)
        except json.JSONDecodeError:
            parsed.setdefault(reducer, {})[option] = value
    return parsed
