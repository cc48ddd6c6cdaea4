"""How much of a forward pass goes into the reduction itself: signals, choice, and applying it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..bound import Bound
from ..engine import Run
from ..handle import Attachment
from .macs import call


class TimedRun(Run):
    """A forward pass that adds the seconds of its reductions to a list."""

    def __init__(self, spent: list[float], bound: Bound) -> None:
        super().__init__(bound)
        self.spent = spent
        self.device = next(bound.stack.blocks[0].parameters()).device

    def _reduce(self, *args: Any, **kwargs: Any) -> Any:
        wait(self.device)
        begin = time.perf_counter()
        out = super()._reduce(*args, **kwargs)
        wait(self.device)
        self.spent.append(time.perf_counter() - begin)
        return out


def overhead(handle: Attachment, inputs: Mapping[str, Any] | tuple[Any, ...], *, rounds: int = 3) -> float:
    """Share of a forward pass's time, 0 to 1, that is spent in the reductions: signals, choice, gathering, merging.

    The median over ``rounds`` passes, after one that is not counted. On an accelerator the pass is made to wait
    before and after each reduction, which makes it slower as a whole.
    """
    shares = []
    spent: list[float] = []
    device = next(handle.model.parameters()).device
    before = [bound.run for bound in handle.bounds]
    try:
        for bound in handle.bounds:
            bound.run = partial(TimedRun, spent)
        with torch.inference_mode():
            for _ in range(rounds + 1):
                spent.clear()
                begin = time.perf_counter()
                call(handle.model, inputs)
                wait(device)
                shares.append(sum(spent) / (time.perf_counter() - begin))
    finally:
        for bound, make in zip(handle.bounds, before, strict=True):
            bound.run = make
    return statistics.median(shares[1:])


def wait(device: torch.device | None) -> None:
    """Until an accelerator has done what it was given."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
