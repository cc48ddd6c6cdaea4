"""How many tokens a fine-tuned model keeps of each scene, beside the number of digits in it and what is asked.

python -m tokenreduce_digits.per_sample vilt-scenes runs/smarttrim/best

Axes: S scenes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import tokenreduce
from tokenreduce.errors import OptionError, TokenReduceError
from tokenreduce.registry import default_registry
from tokenreduce.tasks import Task
from tokenreduce.train import load_weights, of_reducer_alone

from .crowded import task as crowded
from .splits import Splits
from .task import SPLITS

SCENES: dict[str, Splits] = {"vilt-scenes": crowded.SPLITS, "vilt-digits": SPLITS, "meter-digits": SPLITS}


@dataclass(frozen=True)
class Kept:
    """Tokens of one stream in one stack.

    Attributes:
        stack, stream: names.
        tokens: (S,) that each scene keeps, the mean over the places where the reducer acts.
        digits: (S,) in each scene.
        kinds: of question, one for each scene.
        initial: tokens before the first block.
    """

    stack: str
    stream: str
    tokens: Tensor
    digits: Tensor
    kinds: Sequence[str]
    initial: float

    @property
    def correlation(self) -> float:
        """Of both numbers over the scenes (Pearson); not a number where one of them is the same in all."""
        return float(torch.corrcoef(torch.stack([self.tokens, self.digits]))[0, 1])

    @property
    def share_by_kind(self) -> float:
        """Share of the variance over the scenes that is between kinds of question; not a number without any."""
        means = self.mean_by_kind()
        between = torch.tensor([means[kind] for kind in self.kinds], dtype=torch.float64).var(correction=0)
        return float(between / self.tokens.var(correction=0))

    def mean_by_kind(self) -> dict[str, float]:
        """Mean tokens of the scenes with each kind of question."""
        where = {kind: torch.tensor([one == kind for one in self.kinds]) for kind in sorted(set(self.kinds))}
        return {kind: float(self.tokens[mask].mean()) for kind, mask in where.items()}

    def mean_by_digits(self) -> dict[int, float]:
        """Mean tokens of the scenes with each number of digits."""
        return {
            int(count): float(self.tokens[self.digits == count].mean()) for count in sorted(set(self.digits.tolist()))
        }


def kept_tokens(name: str, folder: str | Path, samples: int = 500, batch: int = 50) -> list[Kept]:
    """Tokens that fine-tuned weights keep of the first held-out scenes of a task.

    Args:
        name: of an embedded task whose scenes have digits.
        folder: what ``tokenreduce finetune`` wrote: its ``best``.

    Raises:
        OptionError: no such task, or no such folder.
    """
    if name not in SCENES:
        raise OptionError(f"scenes with a number of digits are those of {', '.join(SCENES)}, got {name!r}")
    task: Task = default_registry().load("task", name)()
    if not of_reducer_alone(folder):
        load_weights(task.model, folder)
    digits = torch.tensor([len(scene.digits) for scene in SCENES[name].scenes(samples)], dtype=torch.float64)
    found: dict[tuple[str, str], list[Tensor]] = {}
    initial: dict[tuple[str, str], float] = {}
    kinds: list[str] = []
    with tokenreduce.load(task.model, folder) as handle, torch.no_grad():
        task.model.eval()
        for part in task.data(samples, batch):
            task.ask(task.model, part.inputs)
            assert handle.last is not None
            kinds += [str(kind) for kind in part.groups or [""] * len(part.targets)]
            for stack, record in handle.last.stacks.items():
                for stream, count in record.mean_counts.items():
                    each = torch.as_tensor(count, dtype=torch.float64).cpu().expand(len(part.targets))
                    found.setdefault((stack, stream), []).append(each)
                    initial[stack, stream] = record.initial[stream]
    return [Kept(*place, torch.cat(parts), digits, kinds, initial[place]) for place, parts in found.items()]


def report(found: Sequence[Kept]) -> str:
    """A line for each stream, and below it the means by number of digits and by kind of question."""
    lines = []
    for one in found:
        lines.append(
            f"{one.stack} {one.stream}: {one.tokens.mean():.1f} of {one.initial:.0f} tokens in a layer, "
            f"± {one.tokens.std(correction=0):.1f} over scenes; correlation with the number of digits "
            f"{one.correlation:.2f}"
        )
        each = ", ".join(f"{count}: {mean:.1f}" for count, mean in one.mean_by_digits().items())
        lines.append(f"  by number of digits: {each}")
        each = ", ".join(f"{kind}: {mean:.1f}" for kind, mean in one.mean_by_kind().items())
        lines.append(f"  by kind of question, {one.share_by_kind:.0%} of the variance: {each}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m tokenreduce_digits.per_sample", description=main.__doc__)
    parser.add_argument("task", metavar="TASK", help=", ".join(SCENES))
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="fine-tuned weights (runs/X/best)")
    parser.add_argument("--samples", type=int, default=500, help="held-out scenes (500)")
    parser.add_argument("--batch", type=int, default=50, help="scenes of a pass (50)")
    given = parser.parse_args(arguments)
    try:
        print(report(kept_tokens(given.task, given.folder, given.samples, given.batch)))
    except TokenReduceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
