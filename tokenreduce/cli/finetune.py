"""``tokenreduce finetune``: train a model with fewer tokens, the unreduced model teaching."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..registry.registry import Registry, default_registry
from ..registry.targets import names_from_file
from .options import add_trust, device_of, move, parse_layers, parse_options

if TYPE_CHECKING:
    from ..tasks.task import Task
    from ..train.fine_tuning import FinetuneResult
    from ..train.recipe import Recipe


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "finetune",
        help="train a model with a reducer attached",
        description="Train a model with a reducer attached; the unreduced model teaches it. Started again with the "
        "same line it resumes where it stopped. The best weights are in OUT/best, for 'tokenreduce ablate --tuned'.",
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--model", metavar="NAME", help="a task that can be trained (default: the first one)")
    what.add_argument("--reducer", metavar="NAME", required=True)
    what.add_argument("--set", metavar="OPTION=VALUE", action="append", default=[], help="an option, VALUE as JSON")
    what.add_argument("--layers", metavar="2,5,8", help="where it acts, counted from 0")
    what.add_argument("--match-macs", metavar="SHARE", type=float, help="solve for this share of multiply-adds (0.5)")
    what.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (runs/MODEL-REDUCER)")
    how = parser.add_argument_group("how", "where a method has a recipe of its own, its settings are the defaults")
    how.add_argument(
        "--recipe",
        metavar="FILE",
        help="settings from a TOML or JSON file, or an earlier run.json, in place of the method's",
    )
    how.add_argument("--samples", type=int, help="training samples in all (32000)")
    how.add_argument("--batch", type=int, help="samples of a step (32)")
    how.add_argument("--lr", type=float, help="highest learning rate (0.0003)")
    how.add_argument("--reducer-lr", type=float, metavar="TIMES", help="times as much for a reducer's own weights (10)")
    how.add_argument("--weight-decay", type=float, help="of matrices (0.01)")
    how.add_argument("--warmup", type=float, metavar="SHARE", help="of the steps, for the learning rate to rise (0.1)")
    how.add_argument("--reduction-warmup", type=float, metavar="SHARE", help="the same for the reduction (0)")
    how.add_argument("--reduction-shape", choices=("cosine", "linear"), help="how the reduction rises (cosine)")
    how.add_argument(
        "--last", action=argparse.BooleanOptionalAction, help="keep the last weights, not the best ones (--no-last)"
    )
    how.add_argument(
        "--max-grad-norm", type=float, metavar="NORM", help="the gradient is clipped to it; 0 for no clipping (0)"
    )
    how.add_argument("--bf16", action="store_const", const=True, help="mixed precision")
    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--no-distillation", action="store_true", help="the task's loss alone")
    teacher.add_argument("--same-weights", action="store_const", const=True, help="the student's own weights teach")
    teacher.add_argument("--temperature", type=float, help="of both softmaxes (1)")
    for name, default in (("task", 1), ("logits", 1), ("hidden", 0), ("own", 1), ("full", 0)):
        teacher.add_argument(f"--{name}-weight", type=float, metavar="W", help=f"of the term {name!r} ({default})")
    watch = parser.add_argument_group("watching")
    watch.add_argument("--save-every", type=int, metavar="STEPS", help="what a killed run loses at most (100)")
    watch.add_argument("--validate-every", type=int, metavar="STEPS", help="steps between evaluations (100)")
    watch.add_argument("--validation-samples", type=int, metavar="N", help="samples of an evaluation (500)")
    watch.add_argument(
        "--patience", type=int, help="evaluations without a better one before early stopping; 0: never (15)"
    )
    watch.add_argument("--seed", type=int, help="of samples, draws and new weights (0)")
    watch.add_argument("--seeds", type=int, default=1, metavar="N", help="runs, each in a folder of its own (1)")
    watch.add_argument("--device", help="cpu, cuda ... (an accelerator if there is one)")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, print, say what can be done with it."""
    registry = default_registry()
    options = parse_options(arguments.set)
    if arguments.layers is not None:
        options["layers"] = parse_layers(arguments.layers)
    if arguments.seeds < 1:
        raise OptionError(f"--seeds must be 1 or more, got {arguments.seeds}")
    share = arguments.match_macs
    if share is not None and not 0 < share < 1:
        raise OptionError(f"--match-macs is a share between 0 and 1, got {share}")
    with names_from_file("the command line", arguments.trust):
        return _run(arguments, registry, options, share)


def _run(arguments: argparse.Namespace, registry: Registry, options: dict[str, Any], share: float | None) -> int:
    from ..lab.preflight import check_variants, import_named

    registry.entry("reducer", arguments.reducer)
    check_variants(registry, {arguments.reducer: options})
    device = device_of(arguments.device)
    if arguments.model is None and not registry.tasks:
        raise OptionError("no task is installed; try: pip install 'tokenreduce[all]', then see 'tokenreduce list'")
    name = arguments.model or next(iter(registry.tasks))

    from ..measure.calibration import options_for_share
    from ..tasks.loading import load_task
    from ..train.fine_tuning import check_trainable

    recipe = recipe_of(arguments, options.get("reducer", arguments.reducer))
    out = arguments.out or Path("runs") / f"{Path(name).name}-{arguments.reducer}"
    found: list[FinetuneResult] = []
    for turn in range(arguments.seeds):
        task = load_task(registry, name)
        import_named(task.settings)
        check_trainable(task)
        move(task.model, device)
        chosen = {"reducer": arguments.reducer, **(options or task.settings.get(arguments.reducer, {}))}
        if share is not None:
            chosen = options_for_share(task, chosen, share)
        folder = out if arguments.seeds == 1 else out / f"seed-{recipe.seed + turn}"
        print(f"{task.name} with {_words(chosen)}, into {folder}", flush=True)
        found.append(train(task, chosen, folder, dataclasses.replace(recipe, seed=recipe.seed + turn)))
    if len(found) > 1:
        best = sorted(100 * one.accuracy for one in found)
        mean = sum(best) / len(best)
        print(f"accuracy of each run: {mean:.1f} % ({best[0]:.1f} to {best[-1]:.1f}, {len(best)} seeds)")
    folders = " ".join(f"--tuned {one.folder}" for one in found)
    own = "" if arguments.model is None else f" --model {name}"
    print(f"compare it with others: tokenreduce ablate{own} {folders}")
    return 0


def recipe_of(arguments: argparse.Namespace, reducer: Any) -> Recipe:
    """The recipe of a file or of the method, flags over it."""
    from ..train.published import published_recipe
    from ..train.recipe import Recipe
    from ..train.recipe_file import read_recipe

    given: dict[str, Any] = {}
    for entry in dataclasses.fields(Recipe):
        flag = f"{entry.name}_weight" if entry.name in ("task", "logits", "hidden", "own", "full") else entry.name
        value = getattr(arguments, flag, None)
        if value is not None:
            given[entry.name] = value
    if arguments.no_distillation:
        given["distillation"] = False
    base = read_recipe(arguments.recipe) if arguments.recipe else published_recipe(reducer)
    return dataclasses.replace(base, **given)


def train(task: Task, chosen: dict[str, Any], folder: Path, recipe: Recipe) -> FinetuneResult:
    """One run, with a line for every report and a bar where somebody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from ..train.fine_tuning import finetune

    columns = (TextColumn("step {task.completed:.0f} of {task.total:.0f}"), BarColumn())
    times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("to go"))
    with Progress(*columns, *times, console=Console(stderr=True), transient=True) as progress:
        job = progress.add_task("", total=recipe.steps)

        def watch(line: Mapping[str, Any]) -> None:
            progress.update(job, completed=line["step"])
            print(report(line), flush=True)

        options = {name: value for name, value in chosen.items() if name != "reducer"}
        found = finetune(task, chosen["reducer"], folder, recipe=recipe, watch=watch, **options)
    early = f"; stopped early, no better one in {recipe.patience} evaluations" if found.stopped else ""
    when, which = ("at the end", "last") if recipe.last else ("at best", "best")
    print(
        f"validation accuracy {_percent(found.start)} before, {_percent(found.accuracy)} {when} (step {found.step}), "
        f"{_percent(found.unreduced)} unreduced{early}\n{which} weights: {found.folder}"
    )
    return found


def report(line: Mapping[str, Any]) -> str:
    """A line of the log for people."""
    if "unreduced" in line:
        return (
            f"validation accuracy {_percent(line['accuracy'])} before training, {_percent(line['unreduced'])} unreduced"
        )
    from ..train.loop import progress_text

    evaluated = f"  accuracy {_percent(line['accuracy'])}" if "accuracy" in line else ""
    return progress_text({name: value for name, value in line.items() if name != "accuracy"}) + evaluated


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _words(chosen: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in chosen.items() if name != "reducer")
    return f"{chosen['reducer']}" + (f" ({options})" if options else "")
