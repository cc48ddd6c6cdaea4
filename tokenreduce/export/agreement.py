"""Whether what was exported computes what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

TOLERANCE = 1e-4
"""Of the largest expected value: single precision, summed in another order by another runtime."""


@dataclass(frozen=True)
class Agreement:
    """How far an exported model is from torch on one batch.

    Attributes:
        batch: samples.
        worst: the largest difference, as a share of the largest value that torch gives, over all outputs.
        output: the output that it is in.
    """

    batch: int
    worst: float
    output: str

    @property
    def ok(self) -> bool:
        """Whether that is rounding."""
        return self.worst <= TOLERANCE

    def __str__(self) -> str:
        return f"batch of {self.batch}: differs by {self.worst:.1e} of the largest value ({self.output})"


def compare_outputs(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Agreement:
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
