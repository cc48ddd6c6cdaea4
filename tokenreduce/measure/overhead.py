"""How much of a forward pass goes into the reduction itself: signals, choice, and applying it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from .._torch import Inputs, call, synchronize
from ..attachments.handle import Attachment
from ..backbones.dispatch import devices_of


@contextmanager
def _timed(spent: list[float], devices: Sequence[torch.device]) -> Iterator[None]:
    """Adds the seconds that its body takes to a list."""
    _wait(devices)
    begin = time.perf_counter()
    yield
    _wait(devices)
    spent.append(time.perf_counter() - begin)


def _wait(devices: Sequence[torch.device]) -> None:
    for device in devices:
        synchronize(device)


def overhead(handle: Attachment, inputs: Inputs, *, rounds: int = 3) -> float:
    """Share of a forward pass's time, 0 to 1, that is spent in the reductions: signals, choice, gathering, merging.

    The median over ``rounds`` passes, after one that is not counted. On an accelerator the pass is made to wait
    before and after each reduction, which makes it slower as a whole.
    """
    shares = []
    spent: list[float] = []
    devices = devices_of(handle.model)
    with contextlib.ExitStack() as around:
        for stack in handle.stacks.values():
            around.enter_context(stack.around(partial(_timed, spent, devices)))
        with torch.inference_mode():
            for _ in range(rounds + 1):
                spent.clear()
                begin = time.perf_counter()
                call(handle.model, inputs)
                _wait(devices)
                shares.append(sum(spent) / (time.perf_counter() - begin))
    return statistics.median(shares[1:])
