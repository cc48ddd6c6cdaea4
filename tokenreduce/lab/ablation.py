"""Runs reducers side by side. Knows no method and no model by name."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .._documents import check
from .._torch import Inputs, call, evaluating
from .._version import __version__
from ..attachments.adapter_lookup import find_adapter
from ..errors import OptionError, guard
from ..measure.macs import DEFINITION, uncounted_operators
from ..measure.memory import DEFINITION as MEMORY
from ..registry.registry import default_registry
from ..tasks.data import Batches
from ..tasks.task import NO_GROUP
from . import breakeven
from .context import Context, attach_row
from .control import smaller_input
from .cost import affordable, cost, measure_overhead
from .dependencies import Dependencies
from .distributed import process_group
from .evaluation import resolve_row, score_row, score_seed
from .machine import machine
from .part import Part
from .plan import Variants, one_per_variant, plan
from .reducer_objects import Classes, plain_variants
from .request import Request
from .result import Result, Row
from .store import Store
from .timing import time_rows
from .verdict import compare_rows

Step = Callable[[str, int, int], None]
LEAST_ROUNDS = 3  # of timing, for a spread that means something

DEFINITIONS = {
    "MACs": DEFINITION,
    "memory": MEMORY,
    "accuracy": "Mean score over the samples (and over the seeds, where the reducer draws at random), with a 95 % "
    "confidence interval: Wilson's where every score is 0 or 1, a percentile bootstrap over the samples otherwise.",
    "change": "Difference to the baseline on the same samples, with a bootstrap interval. p is two-sided: exact "
    "McNemar where scores are 0 or 1, a sign-flip permutation test otherwise; adjusted by Holm over the rows.",
    "speed-up": "Every row is timed once per round in one process, in alternating order; the speed-up is the median "
    "over the rounds of the baseline's time divided by the row's, ± half the range between its quartiles. The baseline "
    "runs through the same engine with fused attention, so that the ratio shows the reduction alone.",
    "ratio": "Share of the image tokens that is gone after the last block; each method's own knob is solved for.",
    "overhead": "Share of a forward pass's time that the reduction itself takes: signals, choice, gathering, merging.",
    "pays from": "Speed-up at other picture sizes with the same options; the least token count from which on it "
    "exceeds 1 by more than its spread.",
}


def ablate(
    model: nn.Module,
    data: Iterable[Any],
    reducers: Sequence[str] | Variants,
    *,
    metric: Callable[[Any, Any], Tensor],
    ask: Callable[[nn.Module, Inputs], Any] = call,
    ratios: float | Sequence[float] = (),
    match_macs: float | Sequence[float] = (),
    seeds: int = 1,
    seed: int = 0,
    batch_sizes: Sequence[int] | None = None,
    rounds: int = 7,
    break_even: bool = True,
    time: bool = True,
    readout_only: bool = False,
    part: str | None = None,
    settings: Variants | None = None,
    store: Store | None = None,
    about: Mapping[str, Any] | None = None,
    step: Step | None = None,
    trust: bool = False,
) -> Result:
    """Evaluate a model under several reducers, with the baseline and the controls beside them.

    Args:
        model: as for :func:`tokenreduce.attach`; it is left as it was.
        data: a list or ``DataLoader`` of :class:`tokenreduce.tasks.Batch`, of ``(inputs, targets)`` pairs or of
            mappings with ``labels``; gone through once per row, so shuffling and augmentation must be off.
        reducers: names, or options by name (``"layers"`` among them). With the option ``"reducer"`` the name is a
            label of your own: ``{"both": {"reducer": {"cross": "pumer", "vision": "tome"}}}``.
            A :class:`tokenreduce.Reducer`, or a class of them, does for a name: ``{"mine": {"reducer": Mine()}}``.
        metric: ``metric(output, targets)`` gives a score per sample, (B,), higher is better.
        ask: ``ask(model, inputs)`` gives that output: the model's forward, or (of a model that writes) ``generate``.
        ratios: shares of image tokens to be gone at the end, a row for each; every method's own knob is solved for.
        match_macs: shares of the baseline's multiply-adds to remain, likewise. Not together with ``ratios``.
        seeds: runs of every reducer that draws at random.
        seed: the first of them; also of torch's generator before each batch.
        batch_sizes: to time; 1 is always among them. By default 1, 8 and that of the first batch.
        rounds: timed rounds, every row once in each.
        break_even: also time other picture sizes, to find from which token count on a method pays.
        time: measure what needs a clock; without, accuracy, multiply-adds and memory alone.
        readout_only: let the last block compute only what the head reads, in every row, the baseline too
            (:func:`tokenreduce.attach`).
        part: ``"2/8"``: of the scores that the ablation needs, every eighth, from the second on, for eight jobs with
            one ``store``. The result has those alone; the same call without ``part`` then reads them all.
        settings: options for reducers that were named without any.
        store: keeps finished cells (``Store("folder")``), so that what was interrupted goes on and what is repeated is
            instant.
        about: what else belongs into ``result.setup``.
        step: called with (what, done, total) as work proceeds.
        trust: import classes because a folder of fine-tuned weights names them, see :func:`tokenreduce.load`.

    Raises:
        OptionError: no data, no reducers, or levels that cannot be.

    Returns:
        A row per reducer and level. One that fails gives a row that says why; the others are finished.
    """
    classes: Classes = {}
    asked = {
        "variants": plain_variants(reducers, classes),
        "ratios": [ratios] if isinstance(ratios, (int, float)) else list(ratios),
        "match_macs": [match_macs] if isinstance(match_macs, (int, float)) else list(match_macs),
        "readout_only": readout_only,
        "batch_sizes": None if batch_sizes is None else list(batch_sizes),
        **{"seeds": seeds, "seed": seed, "rounds": rounds, "break_even": break_even, "time": time},
    }
    request = check(Request, asked, "ablate")
    known = classes, settings or {}, trust
    share = None if part is None else Part.of(part)
    if share is not None and (store is None or store.folder is None):
        raise OptionError("a part keeps what it works out for the others: pass store=Store(FOLDER), one for all")
    return run_request(request, model, data, metric, *known, store=store, about=about, step=step, ask=ask, part=share)


def run_request(
    request: Request,
    model: nn.Module,
    data: Iterable[Any],
    metric: Callable[[Any, Any], Tensor],
    classes: Classes,
    settings: Variants,
    trust: bool = False,
    *,
    store: Store | None = None,
    about: Mapping[str, Any] | None = None,
    step: Step | None = None,
    ask: Callable[[nn.Module, Inputs], Any] = call,
    part: Part | None = None,
) -> Result:
    """What :func:`ablate` does, for a request that has been checked and names its variants.

    Args:
        part: work out this part of the scores, and no times.
        classes: of the reducers that the request names and nobody else knows.
        request: goes into ``result.setup`` as it is.
    """
    assert request.variants is not None
    registry = default_registry()
    crew, (adapter, _, stacks) = process_group(), find_adapter(registry, model, None)
    levels = {"ratios": request.ratios, "match_macs": request.match_macs}
    rows = plan(registry, request.variants, settings, **levels, stacks=stacks)
    if request.readout_only:
        for row in rows:
            row.options["readout_only"] = True
    depends = Dependencies(model, adapter, metric, classes, ask)
    progress = Progress(step if crew.first else None)
    bench = Context(model, Batches(data), metric, store or Store(), crew, depends, progress, trust, ask)
    accelerators = [bench.device] if bench.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=accelerators):
        bench.survey()
        first = bench.sizes[0]
        sizes = sorted({1, *(request.batch_sizes or (min(8, first), first))})
        result = _run(bench, rows, progress, replace(request, batch_sizes=sizes), part)
    result.setup |= {
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "fingerprint": depends.common["model"],
        },
        "data": {"fingerprint": bench.data, "samples": sum(bench.sizes), "batch": first},
        "request": request.to_json(),
        **environment(),
        "processes": crew.size,
        "cells": {"kept": bench.store.hits, "worked out": bench.store.misses},
    }
    result.setup["notes"] += [*data_notes(data, bench.groups), *depends.notes, *bench.store.notes]
    for key, value in (about or {}).items():
        known = result.setup.get(key)
        result.setup[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
    return result


def data_notes(data: Any, groups: Sequence[str]) -> list[str]:
    """What was done to the data, in one line; a data set says so itself, where it has ``notes()``."""
    lone = sum(group == NO_GROUP for group in groups)
    told = [f"{lone} of {len(groups)} samples have no group"] if lone else []
    notes = getattr(data, "notes", None)
    if callable(notes):
        with guard(lambda reason: told.append(f"its notes cannot be read: {reason}")):
            told += map(str, notes())
    return [f"data: {'; '.join(told)}"] if told else []


def _run(bench: Context, rows: list[Row], progress: Progress, asked: Request, part: Part | None) -> Result:
    here, notes = machine(), list[str]()
    baseline, seeds, sizes = rows[0], range(asked.seed, asked.seed + asked.seeds), asked.batch_sizes or [1]
    progress.total = (3 + len(seeds)) * len(rows) + (len(sizes) * asked.rounds if asked.time else 0)
    with guard(partial(_cannot_run, "the model")):
        bench.cost_batch = bench.team.share(affordable(bench, bench.sizes[0]))
    for row in rows:
        record_failure(row, partial(_resolve, bench, row, baseline, seeds))
        record_failure(row, partial(cost, bench, row))
        progress(f"{row.name}: cost")
    if baseline.failed is not None or baseline.macs is None:
        _cannot_run("the baseline", str(baseline.failed))
    rows[1:1] = _smaller(bench, rows, baseline, asked, notes)
    if part is not None:
        return _run_part(bench, rows, part, {"baseline": baseline.name, "notes": notes})
    for row in rows:
        record_failure(row, partial(score_row, bench, row))
        row.macs_share = row.macs / baseline.macs if row.macs is not None else None
    if not asked.time:
        notes.append("nothing was timed (--no-time)")
    elif baseline.failed is None:
        with guard(lambda reason: notes.append(f"not all was timed: {reason}")):
            _time(bench, rows, baseline, asked, notes, here)
    compare_rows(rows, baseline.name)
    with attach_row(bench, baseline) as handle:
        definitions = {
            **DEFINITIONS,
            "operators not counted": ", ".join(uncounted_operators(handle.model, bench.inputs(1))),
        }
    progress.finish()
    if asked.time and asked.rounds < LEAST_ROUNDS:
        rounds = "one round" if asked.rounds == 1 else f"{asked.rounds} rounds"
        notes.append(f"times are of {rounds}, too few to know their spread; give more with --rounds")
    setup = {"baseline": baseline.name, "rounds": asked.rounds, "batch_sizes": sizes, "seeds": list(seeds)}
    return Result(rows, {**setup, "notes": notes, "definitions": definitions})


def _run_part(bench: Context, rows: list[Row], part: Part, setup: dict[str, Any]) -> Result:
    """This part of the scores, into the store; rows are left without what follows from all of them."""
    mine = part.mine([(row, seed) for row in rows if row.failed is None for seed in row.seeds])
    for row, seed in mine:
        with guard(partial(setattr, row, "failed")):
            score_seed(bench, row, seed)
    return Result(rows, {**setup, "part": str(part), "scores of the part": len(mine)})


def _cannot_run(what: str, reason: str) -> NoReturn:
    raise OptionError(f"{what} cannot run on the first batch: {reason}")


def _resolve(bench: Context, row: Row, baseline: Row, seeds: range) -> None:
    resolve_row(bench, row, baseline.macs or 0, seeds)


def _time(
    bench: Context, rows: list[Row], baseline: Row, asked: Request, notes: list[str], here: dict[str, Any]
) -> None:
    """All that is measured by the clock, of the rows that have worked so far."""
    sizes = asked.batch_sizes or [1]
    time_rows(bench, [row for row in rows if row.failed is None], baseline, sizes, asked.rounds, here)
    for row in rows:
        record_failure(row, partial(measure_overhead, bench, row, sizes[-1], here))
    if not asked.break_even:
        return
    samples, rounds = min(sizes[-1], 8), max(asked.rounds // 2, LEAST_ROUNDS)
    with guard(lambda reason: notes.append(f"no break-even: {reason}")):
        breakeven.break_even(bench, one_per_variant(rows), baseline, samples=samples, rounds=rounds, machine=here)


def _smaller(bench: Context, rows: list[Row], baseline: Row, asked: Request, notes: list[str]) -> list[Row]:
    """The control on smaller pictures at each level; without levels, at the multiply-adds in the methods' middle."""
    ratios, shares = asked.ratios, asked.match_macs
    if not ratios and not shares:
        costs = sorted(row.macs for row in rows if row.macs is not None and row.role == "method")
        costs = costs or sorted(row.macs for row in rows[1:] if row.macs is not None)
        assert baseline.macs is not None
        shares = [costs[len(costs) // 2] / baseline.macs] if costs and costs[len(costs) // 2] < baseline.macs else []
    made: dict[str, Row] = {}
    with guard(lambda reason: notes.append(f"no control on smaller pictures: {reason}")):
        for ratio, share in [*((ratio, None) for ratio in ratios), *((None, share) for share in shares)]:
            row = smaller_input(bench, baseline, ratio=ratio, share=share)
            made.setdefault(row.name, row)
    taken = {row.name for row in rows}
    for row in made.values():
        row.name += " (control)" if row.name in taken else ""
        bench.drawing[row.name] = set()
        record_failure(row, partial(cost, bench, row))
    return list(made.values())


class Progress:
    """Counts what is done for whoever watches; the total is a fair guess until the end."""

    def __init__(self, step: Step | None) -> None:
        self.step, self.done, self.total = step, 0, 1

    def __call__(self, what: str) -> None:
        self.done += 1
        self.total = max(self.total, self.done)
        if self.step is not None:
            self.step(what, self.done, self.total)

    def finish(self) -> None:
        """All is done."""
        self.done = self.total - 1
        self("done")


def environment() -> dict[str, Any]:
    """Versions and machine, for a result that can be read later."""
    registry = default_registry()
    plugins = {f"{e.distribution}:{e.plugin}": e.version for e in registry.reducers.values()}
    versions = {"tokenreduce": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"versions": versions, "plugins": plugins, "machine": machine()}


def record_failure(row: Row, work: Callable[[], None]) -> None:
    """Run part of a row unless it has failed; whatever a plugin raises becomes the row's reason."""
    if row.failed is None:
        with guard(partial(setattr, row, "failed")):
            work()
