"""How far a run of training has come, and a line about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOT_TERMS = ("step", "steps", "lr", "samples_per_second", "seconds")


@dataclass
class Progress:
    """What changes during a run, beside weights and optimizer; JSON-able. A subclass adds what its owner needs.

    Attributes:
        step: steps behind it.
        means: running means of the loss's terms and of ``"seconds"`` per step.
    """

    step: int = 0
    means: dict[str, float] = field(default_factory=dict)

    def advance(self, values: Mapping[str, float]) -> None:
        """Count a step, with its terms."""
        for name, value in values.items():
            self.means[name] = 0.95 * self.means.get(name, value) + 0.05 * value
        self.step += 1


def progress_text(line: Mapping[str, Any]) -> str:
    """A report of :class:`tokenreduce.train.Loop` for people: step, terms of the loss, speed, minutes left."""
    terms = " ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in NOT_TERMS)
    left = (line["steps"] - line["step"]) * line["seconds"] / 60
    return (
        f"step {line['step']}/{line['steps']}  {terms}  {line['samples_per_second']:.0f} samples/s  {left:.0f} min left"
    )
