"""``tokenreduce ablate``: reducers side by side on a task, or on a model and data of one's own."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, TokenReduceError
from ..registry.registry import Registry, default_registry
from ..report.formatting import one_line
from .options import device_of
from .output import STDOUT, check_writable, quiet_progress_bars, terminal, write

if TYPE_CHECKING:
    from ..lab.request import Request
    from ..lab.result import Result
    from ..tasks.task import Task


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "ablate",
        help="compare reducers on a model",
        description="Compare reducers on a model: accuracy with intervals and paired tests, multiply-adds, time, "
        "memory; beside the baseline, a random control and the model on smaller pictures. Flags override --grid, "
        " --preset, "
        "--repeat.",
    )
    what = parser.add_argument_group("what to compare")
    what.add_argument("--model", metavar="NAME", help="a task, or a hub id, folder or file (default: the first task)")
    what.add_argument("--data", metavar="FILE", help="samples for such a model: JSON lines of image, text, answer")
    what.add_argument("--reducers", metavar="A,B,...", help="default: every reducer that needs no training")
    what.add_argument(
        "--set",
        metavar="REDUCER.OPTION=VALUE",
        action="append",
        default=[],
        help="an option, its value as JSON; may be given again (for example --set tome.r=13)",
    )
    what.add_argument(
        "--tuned", metavar="FOLDER", action="append", default=[], help="a row with these weights (of finetune's best)"
    )
    source = what.add_mutually_exclusive_group()
    source.add_argument("--grid", metavar="FILE", help="variants and more from a TOML or JSON file")
    source.add_argument("--preset", metavar="NAME", help="variants of a plugin ('tokenreduce list' names them)")
    source.add_argument("--repeat", metavar="FILE", help="what an earlier --json was asked for, again")
    level = what.add_mutually_exclusive_group()
    level.add_argument(
        "--ratios", metavar="A:B:STEP", help="shares of image tokens to be gone (0.1:0.6:0.1, or 0.2,0.4)"
    )
    level.add_argument(
        "--match-macs", metavar="SHARE", help="solve every method for this share of multiply-adds (0.55)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--samples", type=int, help="samples to judge (1000)")
    how.add_argument("--batch", type=int, help="batch size (50)")
    how.add_argument("--seeds", type=int, help="runs of what draws at random (3)")
    how.add_argument("--seed", type=int, help="the first seed (0)")
    how.add_argument("--batch-sizes", metavar="A,B,...", help="batch sizes to time (1, 8 and --batch)")
    how.add_argument("--rounds", type=int, help="timed rounds (7)")
    how.add_argument("--no-break-even", action="store_true", help="leave out timing at other picture sizes")
    how.add_argument("--device", help="cpu, cuda ... (an accelerator if there is one)")
    out = parser.add_argument_group("results")
    out.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="write everything here, - for standard output; compare and --repeat read it",
    )
    out.add_argument("--report", metavar="FILE", type=Path, help="write a page with table, charts and pictures (.html)")
    out.add_argument("--pictures", type=int, help="samples to draw in the report (4)")
    out.add_argument("--store", metavar="DIR", help="where finished cells are kept ($TOKENREDUCE_CACHE)")
    out.add_argument("--fresh", action="store_true", help="work out everything anew, whatever is kept")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write; exit code 1 when a row failed."""
    files = {"--json": arguments.json, "--report": arguments.report}
    if list(files.values()).count(STDOUT) > 1:
        raise OptionError("--json - and --report - cannot both have standard output; name a file for one of them")
    for flag, path in files.items():
        check_writable(flag, path)
    if arguments.report is not None:
        from ..report.page import check_installed

        check_installed()
    quiet_progress_bars()
    alone = STDOUT in files.values()  # then nothing else may go there, whatever a plugin prints
    with contextlib.redirect_stdout(sys.stderr) if alone else contextlib.nullcontext():
        registry = default_registry()
        request = build_request(registry, arguments)
        overrides = parse_settings(arguments.set)
        from ..lab.distributed import process_group

        crew = process_group()
        result, task = evaluate(registry, request, overrides, arguments)
        if not crew.first:
            return 0 if result.ok else 1
        _print(result, task.name)
        for row in result.rows:
            if row.failed is not None:
                print(f"tokenreduce: {one_line(row.name)} failed: {one_line(row.failed)}", file=sys.stderr)
    _write(result, files)
    return 0 if result.ok else 1


def build_request(registry: Registry, arguments: argparse.Namespace) -> Request:
    """The request: from a grid, preset or result if one is named, with the flags over it."""
    from ..lab.plan import parse_ratios
    from ..lab.request import Request, read_request, request_from_mapping

    request = Request()
    if arguments.grid or arguments.repeat:
        request = read_request(arguments.grid or arguments.repeat)
    elif arguments.preset:
        made = registry.load("preset", arguments.preset)()
        request = made if isinstance(made, Request) else request_from_mapping(made, f"preset {arguments.preset}")
    flags = {
        name: getattr(arguments, name) for name in ("model", "data", "samples", "batch", "seeds", "seed", "rounds")
    }
    for name in ("samples", "batch", "seeds", "rounds", "pictures"):
        value = getattr(arguments, name)
        if value is not None and value < (0 if name == "pictures" else 1):
            raise OptionError(f"--{name} must be {0 if name == 'pictures' else 1} or more, got {value}")
    flags["pictures"] = arguments.pictures
    flags["break_even"] = False if arguments.no_break_even else None
    if arguments.batch_sizes:
        flags["batch_sizes"] = numbers(arguments.batch_sizes, "--batch-sizes")
    for name, other in (("ratios", "match_macs"), ("match_macs", "ratios")):
        if getattr(arguments, name):
            flags[name], flags[other] = parse_ratios(getattr(arguments, name)), []
    request = request.with_(**flags)
    if arguments.reducers:
        names = [n.strip() for n in arguments.reducers.split(",") if n.strip()]
        known = request.variants or {}
        request = request.with_(variants={n: known.get(n, {}) for n in dict.fromkeys(names)})
    if request.model is None:
        if not registry.tasks:
            raise OptionError("no task is installed; try: pip install 'tokenreduce[all]', then see 'tokenreduce list'")
        request = request.with_(model=next(iter(registry.tasks)))
    return request


def evaluate(
    registry: Registry, request: Request, overrides: dict[str, dict[str, Any]], arguments: argparse.Namespace
) -> tuple[Result, Task]:
    """Load the model and run the ablation, a bar on the error stream meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from ..lab.ablation import ablate
    from ..lab.distributed import process_group
    from ..lab.store import Store, default_folder
    from ..tasks.loading import load_task

    ready = [name for name, entry in registry.reducers.items() if not getattr(entry.spec, "learns", False)]
    names = list(request.variants or ready)
    if request.variants is not None:  # before anything is loaded; a task may add variants of its own
        check_overrides(overrides, names)
    store = Store(arguments.store or default_folder(), fresh=arguments.fresh)
    crew = process_group()
    what = TextColumn("{task.description:<32}", markup=False)
    columns = (what, BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("to go"))
    bar = Console(stderr=True)
    hidden = not (crew.first and bar.is_terminal)
    with Progress(*columns, *times, console=bar, transient=True, disable=hidden) as progress:
        job = progress.add_task("loading", total=None)
        assert request.model is not None
        task = load_task(registry, request.model, request.data)
        task.model.to(device_of(arguments.device, crew.device))
        variants = full_variants(request, task, names, overrides)
        variants |= tuned_variants(arguments.tuned, variants)
        request = request.with_(variants=variants)
        data = task.data(request.samples, min(request.batch, request.samples))
        result = ablate(
            task.model,
            data,
            variants,
            metric=task.metric,
            ratios=request.ratios,
            match_macs=request.match_macs,
            seeds=request.seeds,
            seed=request.seed,
            batch_sizes=request.batch_sizes or sorted({1, min(8, request.batch), min(request.batch, request.samples)}),
            rounds=request.rounds,
            break_even=request.break_even,
            settings=task.settings,
            store=store,
            about={
                "model": {"name": task.name},
                "data": {"name": request.data or task.description},
                "request": request.to_json(),
                "command": ["tokenreduce", *sys.argv[1:]],
            },
            step=lambda what, done, total: progress.update(
                job, description=one_line(what, 32), completed=done, total=total
            ),
        )
        if arguments.report is not None and crew.first:
            from ..report.gallery import gallery

            progress.update(job, description="pictures")
            try:
                result.pictures = gallery(task, data[0], result, request.pictures)
            except TokenReduceError as error:  # the rest of the result is not to be lost
                result.setup.setdefault("notes", []).append(f"no pictures: {error}")
    return result, task


def full_variants(
    request: Request, task: Task, names: list[str], overrides: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Every variant with all its options, so that the request alone repeats the ablation."""
    if request.variants is None:
        names = names + [n for n, chosen in task.settings.items() if "reducer" in chosen or "weights" in chosen]
        check_overrides(overrides, names)
    given = request.variants or {}
    return {n: {**(given.get(n) or task.settings.get(n, {})), **overrides.get(n, {})} for n in names}


def tuned_variants(folders: list[str], taken: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A variant for each folder of fine-tuned weights, called after its reducer."""
    from ..lab.finetuned import full_options, label_of

    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        options = full_options({"weights": folder})
        found[label_of(folder, {**taken, **found})] = options
    return found


def _print(result: Result, name: str) -> None:
    from ..report.terminal import accuracy, cost, groups, remarks

    out, setup = terminal(), result.setup
    data, cells = setup["data"], setup["cells"]
    if cells["kept"]:
        total = sum(cells.values())
        out.print(f"{cells['kept']} of {total} cells were kept from earlier runs (--fresh works them out)\n")
    title = f"{one_line(name)}: {data['samples']} samples, batch {data['batch']}"
    for part in (*accuracy(result, title, out.width), *cost(result, out.width), *groups(result, out.width)):
        out.print(part, "")
    for line in remarks(result):
        out.print(line)


def _write(result: Result, files: Mapping[str, Path | None]) -> None:
    """Write what was asked for, each file even where another one cannot be written."""
    errors = []
    for flag, path in files.items():
        if path is None:
            continue
        try:
            if flag == "--json":
                text = json.dumps(result.to_json()) + "\n"
            else:
                from ..report.page import render_report

                text = render_report(result)
            write(flag, path, text)
            if path != STDOUT:
                print(f"written: {path}", file=sys.stderr if STDOUT in files.values() else sys.stdout)
        except OptionError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def numbers(text: str, flag: str) -> list[int]:
    """``"1,8,50"`` to whole numbers.

    Raises:
        OptionError: something else.
    """
    try:
        return sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise OptionError(f"{flag} takes whole numbers with commas, for example 1,8,50, got {text!r}") from None


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
