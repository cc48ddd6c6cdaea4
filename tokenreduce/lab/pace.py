"""Time at several batch sizes: every row once per round, each beside the baseline of the same round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from ..handle import Attachment
from ..measure.macs import call
from ..measure.timing import one_round
from .bench import Bench, attach_arguments
from .result import Pace, Row
from .store import key_of
from .task import Inputs

LEAST = 0.05  # seconds of one timing; shorter work is repeated


def paces(
    bench: Bench, rows: Sequence[Row], baseline: Row, sizes: Sequence[int], rounds: int, machine: dict[str, Any]
) -> None:
    """Fill in ``paces`` of every row. Each round is kept as soon as it is done; only missing rounds are timed."""
    handles = {row.name: _handle(bench, row) for row in rows} if bench.team.first else {}
    for size in sizes:
        timed = bench.team.alone(partial(_times, bench, rows, baseline, handles, size, rounds, machine))
        for row, pace in zip(rows, timed, strict=True):
            row.paces.append(pace)


def _times(
    bench: Bench,
    rows: Sequence[Row],
    baseline: Row,
    handles: dict[str, Attachment],
    size: int,
    rounds: int,
    machine: dict[str, Any],
) -> list[Pace]:
    inputs = {row.name: bench.inputs(size, row.input_size) for row in rows}
    about = {
        row.name: {
            "what": "pace",
            **bench.common,
            "attach": attach_arguments(row),
            "against": attach_arguments(baseline),
            "size": row.input_size,
            "batch": size,
            **bench.of_first,
            "machine": machine,
        }
        for row in rows
    }
    done: dict[str, list[list[float]]] = {row.name: bench.store.get(key_of(about[row.name])) or [] for row in rows}
    for name in (row.name for row in rows if len(done[row.name]) < rounds):
        with running(handles[name], inputs[name]) as work:
            work()  # whatever is set up in a first call is not timed
    for turn in range(rounds):
        missing = [row.name for row in rows if len(done[row.name]) <= turn]
        if missing:
            names = list(dict.fromkeys([baseline.name, *missing]))
            spent = one_round(
                {name: partial(running, handles[name], inputs[name]) for name in names},
                turn,
                device=bench.device,
                least=LEAST,
            )
            for name in missing:
                done[name].append([spent[name], spent[baseline.name]])
                bench.keep(about[name], done[name])
        bench.tick(f"timing, batch {size}")
    return [
        Pace(size, [own for own, _ in done[row.name][:rounds]], [base for _, base in done[row.name][:rounds]])
        for row in rows
    ]


def _handle(bench: Bench, row: Row) -> Attachment:
    """The row's attachment, proved once and taken off again until it is timed."""
    handle = bench.attach(bench.model_for(row.input_size), attach_arguments(row))
    handle.detach()
    return handle


@contextlib.contextmanager
def running(handle: Attachment, inputs: Inputs) -> Iterator[Callable[[], object]]:
    """The attachment put on, and a forward pass to time."""
    handle.install()
    try:
        with torch.inference_mode():
            yield lambda: call(handle.model, inputs)
    finally:
        handle.detach()
