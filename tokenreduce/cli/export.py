"""``tokenreduce export``: a model with a reducer inside, as a file for a server, checked against torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..registry.registry import default_registry
from ..registry.targets import names_from_file
from ..report.formatting import clean, one_line
from .options import add_trust, own_variants, reducer_options
from .output import check_writable, quiet_progress_bars
from .show import choose, wanted_options

if TYPE_CHECKING:
    from ..tasks.task import Task

ENDINGS = (".onnx", ".xml", ".pt2")


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "export",
        help="write a model with a reducer inside for a server (ONNX, OpenVINO, torch.export)",
        description="Write a model with a reducer inside for a server, open to every batch, and compare it with torch.",
    )
    parser.add_argument("model", metavar="MODEL", help="as for ablate: a task, or a hub id, folder or file")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=f"its ending: {', '.join(ENDINGS)}")
    parser.add_argument("--reducer", metavar="NAME", default="none", help="as for show (none)")
    parser.add_argument("--tuned", metavar="FOLDER", help="fine-tuned weights and their reducer, in place of --reducer")
    parser.add_argument("--set", metavar="OPTION=VALUE", action="append", default=[], help="an option, VALUE as JSON")
    parser.add_argument("--layers", metavar="2,5,8", help="where it acts, counted from 0")
    parser.add_argument("--data", metavar="PATH", help="samples whose first two are the example, for a model without")
    parser.add_argument(
        "--text", metavar="TEXT", default="", help="beside the example's picture, where there is no data"
    )
    add_trust(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file, say how it agrees with torch; exit code 1 where it does not."""
    if arguments.out.suffix not in ENDINGS:
        raise OptionError(f"--out names its format by the ending, one of {', '.join(ENDINGS)}; got {arguments.out}")
    check_writable("--out", arguments.out)
    if arguments.tuned is not None and arguments.reducer != "none":
        raise OptionError("--tuned has its own reducer; leave --reducer out")
    quiet_progress_bars()
    with names_from_file(arguments.tuned or "the command line", arguments.trust):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    registry = default_registry()
    options = reducer_options(arguments.set, arguments.layers)

    from ..lab.preflight import check_variants, import_named
    from ..tasks.loading import load_task

    if arguments.tuned is None:
        asked = {arguments.reducer: wanted_options(arguments.reducer, options)}
        check_variants(registry, asked, own_variants(registry, arguments.model))
    task = load_task(registry, arguments.model, arguments.data)
    import_named(task.settings)
    row, chosen = choose(registry, task, None if arguments.tuned else arguments.reducer, options, arguments.tuned)

    from ..attachments.lifecycle import attach
    from ..export import export, without_masks
    from ..lab.tuned_weights import load_reducer_weights, tuned_task

    weights = chosen.pop("weights", "")
    task = tuned_task(task, weights) if weights else task
    inputs = example(task, arguments.text)
    with attach(task.model, chosen.pop("reducer"), **chosen) as handle:
        if weights:
            load_reducer_weights(handle, weights)
        inputs, gone = without_masks(task.model, inputs)
        found = export(task.model, inputs, arguments.out)
        print(clean(str(handle)))
    if gone:
        print(f"left out, for it is all ones and the model gives the same without: {', '.join(gone)}")
    print(f"{row}: inputs {_shapes(inputs)}")
    for agreement in found:
        print(f"  {'agrees with torch' if agreement.ok else 'DOES NOT AGREE WITH TORCH'}, {agreement}")
    print(f"written: {one_line(arguments.out)} ({_size(arguments.out):.1f} MB)")
    return 0 if all(agreement.ok for agreement in found) else 1


def example(task: Task, text: str) -> Mapping[str, Any]:
    """Inputs of two samples: the first of the task's data, or grey pictures where it has none.

    Raises:
        OptionError: there are none, or the model is called with positional arguments.
    """
    try:
        batches = task.data(2, 2)
    except OptionError:
        batches = []
    if batches and len(batches[0]) > 1:
        inputs: Any = batches[0].inputs
    elif task.prepare is not None:
        from PIL import Image

        picture = Image.effect_noise((256, 256), 80).convert("RGB")
        inputs = task.prepare([picture, picture.rotate(90)], [text, text])
    else:
        raise OptionError("this model needs two samples as an example; give a file with some (--data questions.jsonl)")
    if not isinstance(inputs, Mapping):
        raise OptionError("export needs inputs by name; this task calls its model with positional arguments")
    return inputs


def _shapes(inputs: Mapping[str, Any]) -> str:
    shapes = {name: tuple(value.shape) for name, value in inputs.items() if hasattr(value, "shape")}
    return ", ".join(f"{name} ({', '.join(['B', *map(str, shape[1:])])})" for name, shape in shapes.items())


def _size(path: Path) -> float:
    """Megabytes of a file and of what stands beside it: weights."""
    beside = (path, path.with_suffix(".bin"), Path(f"{path}.data"))
    return sum(one.stat().st_size for one in beside if one == path or (one.exists() and path.suffix != ".pt2")) / 1e6
