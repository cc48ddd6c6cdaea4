"""Wall-clock time, compared fairly: interleaved rounds in one process, medians and spread."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from .._torch import synchronize


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


Candidates = Mapping[str, Callable[[], AbstractContextManager[Callable[[], object]]]]


def one_round(
    candidates: Candidates, turn: int, *, device: torch.device | None = None, least: float = 0.0
) -> dict[str, float]:
    """Seconds of every candidate, each once, in an order that alternates with ``turn``.

    Args:
        candidates: by name, a function giving a context that is set up untimed and holds what to time.
        turn: number of the round.
        device: an accelerator to wait for.
        least: work that takes less than so many seconds is repeated, up to 50 times, and its mean taken.
    """
    names = list(candidates)
    spent = {}
    for name in names if turn % 2 else reversed(names):
        with candidates[name]() as work:
            spent[name] = seconds(work, device, least)
    return {name: spent[name] for name in names}


def seconds(work: Callable[[], object], device: torch.device | None, least: float) -> float:
    """Seconds that ``work`` takes; where that is less than ``least``, the mean of several that follow the first."""
    first = _time(work, device, 1)
    if first >= least:
        return first
    return _time(work, device, min(math.ceil(least / max(first, 1e-6)), 50))


def interleave(
    candidates: Candidates, *, baseline: str, rounds: int = 7, device: torch.device | None = None
) -> Iterator[dict[str, Timing] | None]:
    """Time every candidate once per round, in turn; yields None after each round and the result last.

    Args:
        candidates: as for :func:`one_round`.
        baseline: the candidate that ratios refer to.
        rounds: timed rounds, after one untimed.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, spent in one_round(candidates, turn, device=device).items():
            if turn:
                times[name].append(spent)
        yield None
    result = {}
    for name, values in times.items():
        ratios = [b / v for b, v in zip(times[baseline], values, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        result[name] = Timing(tuple(values), statistics.median(ratios), (quartiles[2] - quartiles[0]) / 2)
    yield result


def _time(work: Callable[[], object], device: torch.device | None, repeats: int) -> float:
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return (time.perf_counter() - begin) / repeats
