"""Whether what was exported computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Outputs = Mapping[str, Tensor]
TOLERANCE = 1e-4
"""Of the largest expected value: single precision, summed in another order by another runtime."""
NOISE, DRAWS = 1e-5, 16
"""By what share of themselves inputs are moved to see whether tokens nearly tie, and how often."""


@dataclass(frozen=True)
class Agreement:
    """How far an exported model is from torch on one batch.

    Attributes:
        batch: samples.
        worst: the largest difference, as a share of the largest value that torch gives, over all outputs.
        output: the output that it is in.
        moved: how far torch itself moves when its inputs do, where that has been tried (:func:`compare_closely`).
    """

    batch: int
    worst: float
    output: str
    moved: float | None = None

    @property
    def ok(self) -> bool:
        """Whether that is rounding, or a choice between tokens that nearly tie."""
        return self.worst <= max(TOLERANCE, self.moved or 0.0)

    def __str__(self) -> str:
        tie = ""
        if self.moved is not None and self.worst <= self.moved:
            tie = f"; tokens nearly tie: torch itself moves by {self.moved:.1e} when its inputs do by {NOISE:.0e}"
        return f"batch of {self.batch}: differs by {self.worst:.1e} of the largest value ({self.output}){tie}"


def compare_outputs(got: Outputs, expected: Outputs) -> Agreement:
    """The outputs of another runtime beside torch's, by name."""
    worst, where = 0.0, next(iter(expected))
    for name, right in expected.items():
        value = got.get(name)
        if value is None or value.shape != right.shape:
            return Agreement(len(right), float("inf"), f"{name} has another shape, or is missing")
        scale = float(right.double().abs().max()) or 1.0
        error = float((value.double() - right.double()).abs().max()) / scale
        if not error <= worst:  # also where it is not a number
            worst, where = error, name
    return Agreement(len(next(iter(expected.values()))), worst, where)


def compare_closely(got: Outputs, answer: Callable[[Mapping[str, Tensor]], Outputs], inputs: Outputs) -> Agreement:
    """The same, and where it is more than rounding: whether torch itself would move as far.

    A reducer that has to choose between tokens with nearly the same score may choose otherwise in another runtime. It
    then does in torch as well, when the inputs move by as little as a runtime's rounding does.

    Args:
        got: of the other runtime.
        answer: torch's outputs, from inputs by name.
        inputs: by name.
    """
    expected = answer(inputs)
    found = compare_outputs(got, expected)
    if found.ok or found.worst == float("inf"):
        return found
    moved = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(DRAWS):
            noisy = {
                name: value * (1 + NOISE * torch.randn_like(value)) if value.is_floating_point() else value
                for name, value in inputs.items()
            }
            moved = max(moved, compare_outputs(answer(noisy), expected).worst)
    return replace(found, moved=moved)
