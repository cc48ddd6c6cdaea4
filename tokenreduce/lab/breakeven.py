"""From which token count on a method is faster than leaving the tokens alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import TokenReduceError
from ..measure.timing import one_round
from .context import Context, Finite
from .control import patch_grid, tokens_at
from .result import BreakEven, Row
from .timing import LEAST, forward_pass

SIDES = (0.25, 0.4, 0.6, 0.8, 1.0, 1.5)  # of the pictures' own
Tried = list[tuple[int, Finite, Finite]]


def break_even(
    bench: Context, rows: Sequence[Row], baseline: Row, *, samples: int, rounds: int, machine: dict[str, Any]
) -> None:
    """Fill in ``break_even`` of the rows: timed against the baseline, with their options, at other picture sizes.

    Raises:
        UnsupportedModelError: the model takes only one size.
    """
    sizes = _sizes(bench)
    for row in rows:
        facts = {
            **bench.facts(row),
            **bench.against(baseline),
            "samples": samples,
            "rounds": rounds,
            "sizes": sizes,
            "machine": machine,
            **bench.of_first,
        }
        work = partial(_time_all, bench, row, baseline, sizes, samples, rounds)
        tried = bench.cell("break-even", Tried, facts, partial(bench.team.alone, work))
        counted = sorted((int(n), float(ratio), float(spread)) for n, ratio, spread in tried if n)
        row.break_even = BreakEven(samples, counted, least_paying(counted))
        bench.tick(f"{row.name}: break-even")


def least_paying(tried: Tried) -> int | None:
    """The least token count from which on the speed-up exceeds 1 by more than its spread, all the way up."""
    paying = None
    for tokens, ratio, spread in reversed(tried):
        if ratio - spread <= 1:
            break
        paying = tokens
    return paying


def _sizes(bench: Context) -> list[tuple[int, int]]:
    """About :data:`SIDES` of the pictures' own size, in whole patches."""
    (rows, columns), (height, width) = patch_grid(bench)
    sides = [(max(round(rows * side), 1) * height, max(round(columns * side), 1) * width) for side in SIDES]
    return list(dict.fromkeys(sides))


def _time_all(
    bench: Context, row: Row, baseline: Row, sizes: Sequence[tuple[int, int]], samples: int, rounds: int
) -> Tried:
    return [_time(bench, row, baseline, size, samples, rounds) for size in sizes]


def _time(
    bench: Context, row: Row, baseline: Row, size: tuple[int, int], samples: int, rounds: int
) -> tuple[int, float, float]:
    """Image tokens, speed-up and spread at one size; no tokens where the row cannot run there."""
    inputs, handles = bench.inputs(samples, size), {}
    try:
        tokens = tokens_at(bench, row, size)
        for name, one in (("own", row), ("base", baseline)):
            handles[name] = bench.put(one, size)
            handles[name].detach()
    except TokenReduceError:
        return 0, 0.0, 0.0
    spent = [
        one_round(
            {n: partial(forward_pass, h, inputs) for n, h in handles.items()}, turn, device=bench.device, least=LEAST
        )
        for turn in range(rounds + 1)
    ][1:]
    ratios = [one["base"] / one["own"] for one in spent]
    quartiles = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
    return tokens, statistics.median(ratios), (quartiles[2] - quartiles[0]) / 2
