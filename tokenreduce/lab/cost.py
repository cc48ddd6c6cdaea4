"""What a row costs: tokens, multiply-adds, memory, and the time that the reduction itself takes."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from .._torch import call
from ..engine.record import spread
from ..measure.macs import sample_macs
from ..measure.memory import peak_activation_bytes
from ..measure.overhead import overhead
from .context import Context, Finite, attach_row
from .result import Row, SiteTokens

SHARE_OF_MEMORY = 0.3


@dataclass
class Cost:
    """A cell: multiply-adds per sample, tokens site by site and at the end, bytes of activations.

    Means over the samples, with their spread, where samples keep different numbers of tokens.
    """

    macs: int
    sites: list[tuple[str, int, str, int, int]]
    tokens: dict[str, int]
    peak: int
    training: int
    tokens_spread: float = 0.0
    macs_spread: float = 0.0


def cost(bench: Context, row: Row) -> None:
    """Fill in tokens, multiply-adds and memory, of ``bench.cost_batch`` samples of the first batch."""
    facts = {**bench.facts(row), "samples": bench.cost_batch, **bench.of_first}
    found: Cost = bench.cell("cost", Cost, facts, lambda: bench.team.alone(lambda: _cost(bench, row)))
    row.tokens_by_stream = found.tokens
    row.tokens = sum(row.tokens_by_stream.values())
    row.sites = [SiteTokens(*site) for site in found.sites]
    row.macs, row.memory_batch = found.macs, bench.cost_batch
    row.tokens_spread, row.macs_spread = found.tokens_spread or None, found.macs_spread or None
    row.peak_memory_bytes, row.training_memory_bytes = found.peak, found.training


def _cost(bench: Context, row: Row) -> Cost:
    inputs = bench.inputs(bench.cost_batch, row.input_size)
    with attach_row(bench, row) as handle:
        macs = sample_macs(handle, inputs, bench.cost_batch)
        if len(macs) > 1:  # that was one by one
            with torch.no_grad():
                call(handle.model, inputs)
        record = handle.last
        assert record is not None
        first = next(iter(record.stacks.values()))
        left = list(first.counts.values())
        return Cost(
            macs=round(statistics.fmean(macs)),
            sites=[(r.stack, r.layer, r.stream, r.tokens_in, r.tokens_out) for r in record.sites],
            tokens={name: round(count) for name, count in first.tokens.items()},
            peak=peak_activation_bytes(handle.model, inputs),
            training=peak_activation_bytes(handle.model, inputs, graph=True),
            tokens_spread=spread(sum(left[1:], start=left[0])),
            macs_spread=statistics.pstdev(macs),
        )


def measure_overhead(bench: Context, row: Row, samples: int, machine: dict[str, Any]) -> None:
    """Fill in the share of the time that the reduction itself takes, at a batch size."""
    facts = {**bench.facts(row), "samples": samples, "machine": machine}

    def work() -> float:
        inputs = bench.inputs(samples, row.input_size)
        with attach_row(bench, row) as handle:
            return overhead(handle, inputs)

    row.overhead = bench.cell("overhead", Finite, {**facts, **bench.of_first}, lambda: bench.team.alone(work))


def affordable(bench: Context, wanted: int) -> int:
    """The greatest batch, ``wanted`` or a half, a quarter ... of it, whose backward pass fits into a part of memory.

    Judged by the activations of one sample under the plain model.
    """
    with torch.random.fork_rng(devices=[]):
        inputs = bench.inputs(1)
        call(bench.model, inputs)
        one = peak_activation_bytes(bench.model, inputs, graph=True)
    free = SHARE_OF_MEMORY * _free_bytes(bench.device)
    while wanted > 1 and wanted * one > free:
        wanted = (wanted + 1) // 2
    return wanted


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not every system tells
        return 8e9
