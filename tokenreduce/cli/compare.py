"""``tokenreduce compare A B``: what changed from one ablation, or one run of an evaluation harness, to another."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._documents import read_document
from ..errors import OptionError
from ..report.formatting import macs, number, one_line, p_value, percent, plus_minus, points, size
from .output import STDOUT, check_writable, write

if TYPE_CHECKING:
    from rich.table import Table

    from ..lab.comparison import Change
    from ..lab.result import Result


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("compare", help="what changed from one ablation, or evaluation run, to another")
    parser.add_argument(
        "a",
        metavar="A",
        type=Path,
        help="written by 'tokenreduce ablate --json FILE'; or samples of lm-eval or lmms-eval (.jsonl), or the folder "
        "they are in",
    )
    parser.add_argument("b", metavar="B", type=Path, help="another one")
    parser.add_argument(
        "--control",
        metavar="C",
        type=Path,
        help="a third one with as many tokens as B, of random drop: does B beat it?",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the changes here, - for standard output")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables and what else differs, write the JSON."""
    check_writable("--json", arguments.json)
    a, b = read(arguments.a), read(arguments.b)
    control = None if arguments.control is None else read(arguments.control)

    from ..lab.comparison import against_control, compare, differences

    changes, lines = compare(a, b), differences(a, b)
    verdicts = {} if control is None else against_control(b, control, "the control")
    with contextlib.redirect_stdout(sys.stderr) if arguments.json == STDOUT else contextlib.nullcontext():
        _print(arguments, a, b, changes, lines, verdicts)
    if arguments.json is not None:
        document = {
            "a": str(arguments.a),
            "b": str(arguments.b),
            "changes": [change.to_json() for change in changes],
            "differences": lines,
            **({} if control is None else {"control": str(arguments.control), "verdicts": verdicts}),
        }
        write("--json", arguments.json, json.dumps(document, indent=2) + "\n")
    return 0


def _print(
    arguments: argparse.Namespace,
    a: Result,
    b: Result,
    changes: list[Change],
    lines: list[str],
    verdicts: Mapping[str, str],
) -> None:
    from rich.text import Text

    from ..lab.comparison import same_machine
    from ..report.terminal import terminal

    out = terminal()
    out.print(f"A: {one_line(arguments.a)}\nB: {one_line(arguments.b)}")
    out.print(f"control: {one_line(arguments.control)}\n" if verdicts else "")
    for table in (*measures(changes, out.width), *speeds(changes, out.width, comparable=same_machine(a, b))):
        out.print(table, "")
    for change in changes:
        for which, reason in zip("AB", change.failed, strict=True):
            if reason is not None:
                out.print(Text(one_line(f"{change.name} failed in {which}: {reason}"), style="red"))
    if verdicts:
        out.print("B against the control, paired by sample:")
        for name, sentence in verdicts.items():
            out.print(f"  {one_line(name)}: {one_line(sentence)}")
        out.print("")
    out.print("What differs:" if lines else "Nothing differs in what is recorded of models, data and machines.")
    for line in lines:
        out.print(f"  {one_line(line)}")


def read(path: Path) -> Result:
    """The ablation in a file, or the samples of an evaluation harness.

    Raises:
        OptionError: no such file, or it is neither.
    """
    from ..lab.result import Result
    from ..lab.sample_logs import is_log, read_logs

    if is_log(path):
        return read_logs(path)
    wanted = "expected what 'tokenreduce ablate --json FILE' writes, or samples of lm-eval or lmms-eval (.jsonl)"
    try:
        return Result.from_json(read_document(path, wanted))
    except OptionError as error:
        if str(error).startswith("cannot read"):
            raise
        raise OptionError(f"{path}: {wanted}, got: {error}") from error


def measures(changes: list[Change], width: int) -> Iterator[Table | str]:
    """One row per row of the results, and what does not hang on a clock."""
    from ..report.terminal import Column, tables

    names = [f"{change.name} (only in {change.only_in})" if change.only_in else change.name for change in changes]
    columns = [
        Column("accuracy", [_pair(change.accuracy, percent) for change in changes]),
        Column("change [95 %]", [_difference(change) for change in changes]),
        Column("p", [p_value(change.p) for change in changes]),
        Column("tokens", [_pair(change.tokens, number) for change in changes]),
        Column("MACs", [_pair(change.macs, macs) for change in changes]),
        Column("memory\npeak", [_pair(change.peak_memory_bytes, size) for change in changes]),
        Column("memory\ntraining", [_pair(change.training_memory_bytes, size) for change in changes]),
    ]
    yield from tables("accuracy and cost, A → B", "row", names, columns, width)
    unpaired = any(change.test == "unpaired intervals" for change in changes)
    yield "change in points; p: paired test of the same samples" + (
        "; no p: the samples are not known to be the same, a change is significant where its bounds exclude 0"
        if unpaired
        else ""
    )


def speeds(changes: list[Change], width: int, *, comparable: bool) -> Iterator[Table | str]:
    """Speed-ups over each result's own baseline, at every batch size that both were timed at."""
    from ..report.terminal import Column, tables

    found = [(change.name, speed) for change in changes for speed in change.speeds]
    if not found:
        return
    columns = [
        Column("batch", [number(speed.batch) for _, speed in found]),
        Column("A", [plus_minus(speed.a, speed.a_spread) for _, speed in found]),
        Column("B", [plus_minus(speed.b, speed.b_spread) for _, speed in found]),
    ]
    yield from tables("speed-up over the baseline", "row", [name for name, _ in found], columns, width)
    if not comparable:
        yield "NOT COMPARABLE: A and B are not known to have run on the same machine"


def _pair(two: tuple[Any, Any], say: Callable[[Any], str]) -> str:
    """``"97.8 % → 97.5 %"``, or one value where both read the same."""
    return " → ".join(dict.fromkeys(map(say, two)))


def _difference(change: Change) -> str:
    known = [points(value) for value in (change.difference, change.low, change.high) if value is not None]
    return f"{known[0]} [{known[1]}, {known[2]}]" if len(known) == 3 else "".join(known)
