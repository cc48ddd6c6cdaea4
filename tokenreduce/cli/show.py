"""``tokenreduce show``: one picture, what a reducer leaves of it, and the answers before and after."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..registry.registry import Entry, Registry, default_registry
from ..registry.targets import names_from_file
from ..report.formatting import clean, one_line
from .options import add_trust, own_variants, reducer_options
from .output import check_writable, quiet_progress_bars, write

if TYPE_CHECKING:
    from ..tasks.task import Task


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("show", help="draw what a reducer leaves of a picture, with the answers")
    parser.add_argument("image", metavar="IMAGE", nargs="?", type=Path, help="a picture; or use --sample")
    parser.add_argument("--text", metavar="TEXT", default="", help="the question, or whatever text the model takes")
    parser.add_argument("--sample", metavar="N", type=int, help="held-out sample N of the model's data, from 0 on")
    parser.add_argument("--model", metavar="NAME", help="as for ablate (default: the first task)")
    parser.add_argument("--data", metavar="FILE", help="data file that --sample counts in, for a model that has none")
    parser.add_argument(
        "--reducer",
        metavar="NAME",
        help="name of a reducer or of a setting of the task, or JSON with one per stack (default: the first method)",
    )
    parser.add_argument("--tuned", metavar="FOLDER", help="fine-tuned weights and their reducer, in place of --reducer")
    parser.add_argument("--set", metavar="OPTION=VALUE", action="append", default=[], help="an option, VALUE as JSON")
    parser.add_argument("--layers", metavar="2,5,8", help="where it acts, counted from 0")
    add_trust(parser)
    parser.add_argument("--out", metavar="FILE.png", type=Path, default=Path("picture.png"), help="(picture.png)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the picture, print answers and token counts."""
    check_arguments(arguments)
    quiet_progress_bars()
    with names_from_file(arguments.tuned or "the command line", arguments.trust):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    registry = default_registry()
    options = reducer_options(arguments.set, arguments.layers)
    if arguments.model is None and not registry.tasks:
        raise OptionError("no task is installed; try: pip install 'tokenreduce[all]', then see 'tokenreduce list'")

    from ..lab.preflight import check_variants, import_named
    from ..tasks.loading import load_task

    model = arguments.model or next(iter(registry.tasks))
    if arguments.reducer is not None:
        check_variants(
            registry, {arguments.reducer: wanted_options(arguments.reducer, options)}, own_variants(registry, model)
        )
    task = load_task(registry, model, arguments.data)
    import_named(task.settings)
    row, chosen = choose(registry, task, arguments.reducer, options, arguments.tuned)

    from ..lab.tuned_weights import tuned_task
    from ..report.figure import draw
    from ..report.regions import regions
    from ..report.sample_source import sample_from_file, sample_from_task
    from ..report.sample_view import answers, attach_traced, pictures

    if arguments.sample is not None:
        inputs, sample = sample_from_task(task, arguments.sample)
    else:
        inputs, sample = sample_from_file(task, arguments.image, arguments.text)
    before = answers(task, inputs)
    weights = chosen.pop("weights", "")
    tuned = tuned_task(task, weights) if weights else task
    with attach_traced(tuned, chosen.pop("reducer"), chosen, weights) as handle:
        picture = pictures(tuned, inputs, [sample], row, handle, before)[0]
        table = str(handle)
    for name, words in (("text", picture.text), ("right answer", picture.expected)):
        if words:
            print(f"{name}: {one_line(words)}")
    for name, words in (("before", picture.before), ("after", picture.after)):
        print(f"{name}: {one_line(words) or '(no words)'}")
    found = regions(picture.grid, picture.owner)
    print(f"{clean(table)}\npatches: {found.patches} to {found.left} tokens ({found})")
    write("--out", arguments.out, draw(picture))
    print(f"written: {arguments.out}")
    return 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise OptionError for what can be seen to be wrong before anything is loaded."""
    if (arguments.image is None) == (arguments.sample is None):
        raise OptionError("show takes a picture or --sample N, one of them: tokenreduce show photo.png --text '...'")
    if arguments.sample is not None and arguments.text:
        raise OptionError("--text belongs to a picture of yours; a held-out sample has its own, so leave it out")
    if arguments.tuned is not None and arguments.reducer is not None:
        raise OptionError("--tuned has its own reducer; leave --reducer out")
    if arguments.sample is not None and arguments.sample < 0:
        raise OptionError(f"--sample counts from 0, got {arguments.sample}")
    from ..tasks.records import is_file

    if arguments.image is not None and not is_file(arguments.image):
        raise OptionError(f"there is no file {str(arguments.image)!r}; give a picture, or --sample 0")
    if arguments.out.suffix.lower() != ".png":
        raise OptionError(f"--out writes a PNG, so name it FILE.png; got {str(arguments.out)!r}")
    check_writable("--out", arguments.out)


def _ready(entry: Entry) -> bool:
    """Whether it is a method that means something without training."""
    return getattr(entry.spec, "role", "") == "method" and not getattr(entry.spec, "learns", False)


def wanted_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options with what ``--reducer`` says, a mapping of stacks where it is JSON.

    Raises:
        OptionError: JSON that is not valid.
    """
    if not name.lstrip().startswith("{"):
        return options
    try:
        return {"reducer": json.loads(name), **options}
    except (ValueError, RecursionError) as error:
        raise OptionError(f'--reducer is a name, or JSON like {{"vision": "tome"}}: {error}') from error


def choose(
    registry: Registry, task: Task, name: str | None, options: dict[str, Any], tuned: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Label and ``{"reducer": ..., **options}``: the task's setting of that name, with options given here over it.

    Without a name, the first reducer of the registry that is a method; with ``tuned``, a folder of fine-tuned weights,
    the reducer that is in it.

    Raises:
        UnknownNameError, PluginError: no such reducer. OptionError: JSON that is not a mapping of stacks.
    """
    from ..lab.tuned_weights import full_options, label_of

    if tuned is not None:
        return label_of(tuned, {}), {**full_options({"weights": tuned}), **options}
    if name is None:
        methods = [n for n, entry in registry.reducers.items() if _ready(entry)]
        if not methods:
            raise OptionError("no method is installed; name a reducer with --reducer (see 'tokenreduce list')")
        name = methods[0]
    if name.lstrip().startswith("{"):
        stacks = wanted_options(name, {})["reducer"]
        label = " + ".join(str(part.get("reducer") if isinstance(part, dict) else part) for part in stacks.values())
        return label, {"reducer": stacks, **options}
    setting = dict(task.settings.get(name, {}))
    if "weights" in setting:
        return name, {**full_options(setting), **options}
    if "reducer" not in setting and ":" not in name:
        registry.entry("reducer", name)  # raises with the names that are near
    return name, {"reducer": name, **setting, **options}
