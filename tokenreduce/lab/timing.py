"""Time at several batch sizes: every row once per round, each beside the baseline of the same round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le

from .._torch import Inputs, call
from ..attachments.handle import Attachment
from ..errors import guard
from ..measure.timing import one_round
from .context import Context
from .result import BatchTiming, Row

Seconds = Annotated[float, Gt(0), Le(1e9)]
Rounds = list[tuple[Seconds, Seconds]]  # a cell: the row's time and the baseline's, round by round
Work = Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]
LEAST = 0.05  # seconds of one timing; shorter work is repeated


def time_rows(
    bench: Context, rows: Sequence[Row], baseline: Row, sizes: Sequence[int], rounds: int, machine: dict[str, Any]
) -> None:
    """Fill in ``paces`` of every row, or why it failed.

    Each round is kept as soon as it is done; only missing rounds are timed.
    """
    handles: dict[str, Attachment] = {}
    reasons = bench.team.alone(partial(_put_all, bench, rows, handles))
    for row in rows:
        row.failed = reasons.get(row.name)
    for size in sizes:
        going = [row for row in rows if row.failed is None]
        timed = bench.team.alone(partial(_times, bench, going, baseline, handles, size, rounds, machine))
        for row, (pace, reason) in zip(going, timed, strict=True):
            row.failed = reason
            if pace is not None:
                row.paces.append(pace)


def _times(
    bench: Context,
    rows: Sequence[Row],
    baseline: Row,
    handles: dict[str, Attachment],
    size: int,
    rounds: int,
    machine: dict[str, Any],
) -> list[tuple[BatchTiming | None, str | None]]:
    """A pace for each row, or why there is none."""
    common = {**bench.against(baseline), "batch": size, **bench.of_first, "machine": machine}
    failed: dict[str, str] = {}
    about: dict[str, dict[str, Any]] = {}
    done: dict[str, Rounds] = {}
    works: dict[str, Work] = {}
    for row in rows:
        with guard(partial(failed.__setitem__, row.name)):
            about[row.name] = bench.about("pace", {**bench.facts(row), **common})
            done[row.name] = bench.kept(about[row.name], Rounds) or []
            works[row.name] = partial(forward_pass, handles[row.name], bench.inputs(size, row.input_size))
            if len(done[row.name]) < rounds:
                with works[row.name]() as work:
                    work()  # whatever is set up in a first call is not timed
    for turn in range(rounds):
        missing = [name for name in works if name not in failed and len(done[name]) <= turn]
        if missing and baseline.name not in failed:
            for name, pair in _round(bench, works, baseline.name, missing, turn, failed).items():
                done[name].append(pair)
                bench.keep(about[name], done[name])
        bench.tick(f"timing, batch {size}")
    return [_timing(row.name, baseline.name, size, done.get(row.name, [])[:rounds], failed) for row in rows]


def _timing(
    name: str, baseline: str, size: int, pairs: Rounds, failed: dict[str, str]
) -> tuple[BatchTiming | None, str | None]:
    if baseline in failed:
        return None, f"{baseline} cannot be timed at a batch of {size}: {failed[baseline]}"
    if name in failed:
        return None, f"at a batch of {size}: {failed[name]}"
    own, base = zip(*pairs, strict=True)
    return BatchTiming(size, list(own), list(base)), None


def _round(
    bench: Context, works: dict[str, Work], baseline: str, names: Sequence[str], turn: int, failed: dict[str, str]
) -> dict[str, tuple[float, float]]:
    """Times of one round, the baseline's beside each; a row that fails in it is taken out, and the round repeated."""
    going = list(dict.fromkeys([baseline, *names]))
    while baseline not in failed:
        left = {name: partial(_telling, works[name], name, failed) for name in going if name not in failed}
        try:
            spent = one_round(left, turn, device=bench.device, least=LEAST)
        except _FailedError:
            continue
        return {name: (spent[name], spent[baseline]) for name in names if name in spent}
    return {}


class _FailedError(Exception):
    """A row failed in the middle of a round."""


@contextlib.contextmanager
def _telling(work: Work, name: str, failed: dict[str, str]) -> Iterator[Callable[[], object]]:
    """Work that is noted as failed, by its name, where it raises anything."""
    with guard(partial(failed.__setitem__, name)), work() as run:
        yield run
    if name in failed:
        raise _FailedError(name)


def _put_all(bench: Context, rows: Sequence[Row], handles: dict[str, Attachment]) -> dict[str, str]:
    """Every row's attachment, proved once and taken off again until it is timed; why some cannot be had."""
    reasons: dict[str, str] = {}
    for row in rows:
        with guard(partial(reasons.__setitem__, row.name)):
            handle = bench.put(row)
            handle.detach()
            handles[row.name] = handle
    return reasons


@contextlib.contextmanager
def forward_pass(handle: Attachment, inputs: Inputs) -> Iterator[Callable[[], object]]:
    """The attachment put on, and a forward pass to time."""
    handle.install()
    try:
        with torch.inference_mode():
            yield lambda: call(handle.model, inputs)
    finally:
        handle.detach()
