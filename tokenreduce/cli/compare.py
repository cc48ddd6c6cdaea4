"""``tokenreduce compare A.json B.json``: what changed from one ablation to another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._documents import read_document
from ..errors import OptionError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ..lab.compare import Change
    from ..lab.result import Result


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("compare", help="what changed from one ablation to another")
    parser.add_argument("a", metavar="A.json", type=Path, help="written by 'tokenreduce ablate --json A.json'")
    parser.add_argument("b", metavar="B.json", type=Path, help="another one")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the changes here")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables and what else differs, write the JSON."""
    if arguments.json is not None and not arguments.json.resolve().parent.is_dir():
        raise OptionError(f"--json: the folder {arguments.json.parent} does not exist; make it first")
    a, b = read(arguments.a), read(arguments.b)

    from rich.console import Console
    from rich.text import Text

    from ..lab.compare import compare, differences, same_machine

    changes, lines = compare(a, b), differences(a, b)
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=120)
    out.print(Text(f"A: {arguments.a}\nB: {arguments.b}\n"))
    out.print(measures(changes))
    if any(change.speeds for change in changes):
        out.print(speeds(changes, comparable=same_machine(a, b)))
    for change in changes:
        for which, reason in zip("AB", change.failed, strict=True):
            if reason is not None:
                out.print(Text(f"{change.name} failed in {which}: {reason}", style="red"))
    out.print(Text("What differs:" if lines else "Nothing differs in what is recorded of models, data and machines."))
    for line in lines:
        out.print(Text(f"  {line}"))
    if arguments.json is not None:
        document = {
            "a": str(arguments.a),
            "b": str(arguments.b),
            "changes": [change.to_json() for change in changes],
            "differences": lines,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def read(path: Path) -> Result:
    """The ablation in a file.

    Raises:
        OptionError: no such file, or it is not the JSON of an ablation.
    """
    from ..lab.result import Result

    wanted = "expected what 'tokenreduce ablate --json FILE' writes"
    try:
        return Result.from_json(read_document(path, wanted))
    except OptionError as error:
        if str(error).startswith("cannot read"):
            raise
        raise OptionError(f"{path}: {wanted}, got: {error}") from error


def measures(changes: list[Change]) -> Table:
    """One row per row of the results, and what does not hang on a clock."""
    from rich.text import Text

    table = _table("accuracy and cost, A → B")
    for column in ("row", "accuracy", "change [95 %]", "p", "tokens", "MACs\n(M)", "peak\n(MiB)", "training\n(MiB)"):
        table.add_column(Text(column), justify="left" if column == "row" else "right", no_wrap=column != "row")
    for change in changes:
        table.add_row(
            Text(f"{change.name} (only in {change.only_in})" if change.only_in else change.name),
            _pair(change.accuracy, 100, ".1f", " %"),
            _difference(change),
            "" if change.p is None else "< 0.001" if change.p < 0.001 else f"{change.p:.3f}",
            _pair(change.tokens, 1, ".0f"),
            _pair(change.macs, 1e-6, ".0f"),
            _pair(change.peak_memory_bytes, 2**-20, ".0f"),
            _pair(change.training_memory_bytes, 2**-20, ".0f"),
        )
    unpaired = any(change.test == "unpaired intervals" for change in changes)
    table.caption = "change in points; p: paired test of the same samples" + (
        "; no p: the samples are not known to be the same, a change is significant where its bounds exclude 0"
        if unpaired
        else ""
    )
    return table


def speeds(changes: list[Change], *, comparable: bool) -> Table:
    """Speed-ups over each result's own baseline, at every batch size that both were timed at."""
    from rich.text import Text

    table = _table("speed-up over the baseline")
    for column in ("row", "batch", "A", "B"):
        table.add_column(column, justify="left" if column == "row" else "right", no_wrap=column != "row")
    for change in changes:
        for speed in change.speeds:
            own = [f"{speed.a:.2f} ± {speed.a_spread:.2f}", f"{speed.b:.2f} ± {speed.b_spread:.2f}"]
            table.add_row(Text(change.name), str(speed.batch), *own)
    if not comparable:
        table.caption = "NOT COMPARABLE: A and B are not known to have run on the same machine"
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _pair(two: tuple[float | None, float | None], factor: float, form: str, unit: str = "") -> str:
    """``"97.8 % → 97.5 %"``, or one value where both read the same."""
    texts = ["-" if value is None else format(factor * value, form) + unit for value in two]
    return texts[0] if texts[0] == texts[1] else " → ".join(texts)


def _difference(change: Change) -> Text:
    from rich.text import Text

    texts = [
        f"{round(100 * value, 1) + 0.0:+.1f}"  # never -0.0
        for value in (change.difference, change.low, change.high)
        if value is not None
    ]
    return Text(f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else "".join(texts))
