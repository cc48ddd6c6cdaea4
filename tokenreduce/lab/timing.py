"""Time at several batch sizes: every row once per round, each beside the baseline of the same round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from .._torch import Inputs, call
from ..attachments.handle import Attachment
from ..measure.timing import one_round
from .context import Context, attach_arguments
from .result import BatchTiming, Row
from .store import key_of

LEAST = 0.05  # seconds of one timing; shorter work is repeated


def time_rows(
    bench: Context, rows: Sequence[Row], baseline: Row, sizes: Sequence[int], rounds: int, machine: dict[str, Any]
) -> None:
    """Fill in ``paces`` of every row. Each round is kept as soon as it is done; only missing rounds are timed."""
    handles = {row.name: _handle(bench, row) for row in rows} if bench.team.first else {}
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
    inputs = {row.name: bench.inputs(size, row.input_size) for row in rows}
    about = {
        row.name: {
            "what": "pace",
            **bench.common,
            **bench.facts(row),
            "against": attach_arguments(baseline),
            "batch": size,
            **bench.of_first,
            "machine": machine,
        }
        for row in rows
    }
    done: dict[str, list[list[float]]] = {row.name: bench.store.get(key_of(about[row.name])) or [] for row in rows}
    failed: dict[str, str] = {}
    for name in (row.name for row in rows if len(done[row.name]) < rounds):
        try:
            with forward_pass(handles[name], inputs[name]) as work:
                work()  # whatever is set up in a first call is not timed
        except Exception as error:  # a stranger's reducer may not take a batch of this size
            failed[name] = f"at a batch of {size}: {type(error).__name__}: {error}"
    if baseline.name in failed:
        return [(None, f"{baseline.name} cannot be timed {failed[baseline.name]}") for _ in rows]
    for turn in range(rounds):
        missing = [row.name for row in rows if len(done[row.name]) <= turn and row.name not in failed]
        if missing:
            names = list(dict.fromkeys([baseline.name, *missing]))
            spent = one_round(
                {name: partial(forward_pass, handles[name], inputs[name]) for name in names},
                turn,
                device=bench.device,
                least=LEAST,
            )
            for name in missing:
                done[name].append([spent[name], spent[baseline.name]])
                bench.keep(about[name], done[name])
        bench.tick(f"timing, batch {size}")
    timed = {name: tuple(zip(*pairs[:rounds], strict=True)) for name, pairs in done.items() if name not in failed}
    return [
        (BatchTiming(size, list(timed[name][0]), list(timed[name][1])) if name in timed else None, failed.get(name))
        for name in (row.name for row in rows)
    ]


def _handle(bench: Context, row: Row) -> Attachment:
    """The row's attachment, proved once and taken off again until it is timed."""
    handle = bench.put(row)
    handle.detach()
    return handle


@contextlib.contextmanager
def forward_pass(handle: Attachment, inputs: Inputs) -> Iterator[Callable[[], object]]:
    """The attachment put on, and a forward pass to time."""
    handle.install()
    try:
        with torch.inference_mode():
            yield lambda: call(handle.model, inputs)
    finally:
        handle.detach()
