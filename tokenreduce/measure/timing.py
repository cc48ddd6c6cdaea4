"""Wall-clock time, compared fairly: interleaved rounds in one process, medians and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate over the rounds.

    Attributes:
        seconds: one time per round.
        ratio: median over rounds of the baseline's time divided by this one's, in the same round.
        spread: half the range between the quartiles of that ratio.
    """

    seconds: tuple[float, ...]
    ratio: float
    spread: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleaved(
    candidates: Mapping[str, Callable[[], AbstractContextManager[Callable[[], object]]]],
    *,
    baseline: str,
    rounds: int = 7,
    device: torch.device | None = None,
) -> Iterator[dict[str, Timing] | None]:
    """Time every candidate once per round, in turn; yields None after each single timing and the result last.

    Args:
        candidates: by name, a function giving a context that is set up untimed and holds what to time.
        baseline: the candidate that ratios refer to.
        rounds: timed rounds, after one untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            with candidates[name]() as work:
                spent = _time(work, device)
            if turn:
                seconds[name].append(spent)
            yield None
    base = seconds[baseline]
    result = {}
    for name, values in seconds.items():
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        result[name] = Timing(tuple(values), statistics.median(ratios), (quartiles[2] - quartiles[0]) / 2)
    yield result


def _time(work: Callable[[], object], device: torch.device | None) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
