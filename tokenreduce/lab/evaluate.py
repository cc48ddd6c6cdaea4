"""A row's options at its level, and its score on every sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from .._torch import call
from ..attachments.handle import Attachment
from ..errors import OptionError, TokenReduceError, UnfitReducerError
from ..measure.calibrate import solve_options
from .context import Context, attach_arguments, attach_row
from .result import Row
from .statistics import mean_over_seeds


def resolve_row(bench: Context, row: Row, dense: int, seeds: Sequence[int]) -> None:
    """Solve for the row's level, if it has one, and put the options in force, its seeds and its notes into it."""
    if row.ratio is not None or row.target_macs is not None:
        facts = {**bench.facts(row), "ratio": row.ratio, "macs": row.target_macs, **bench.of_first}
        solved = bench.cell("solve", facts, lambda: bench.team.alone(lambda: _solve(bench, row, dense)))
        row.reducer, row.options = solved["reducer"], {k: v for k, v in solved.items() if k != "reducer"}
    with attach_row(bench, row) as handle:
        row.notes, active = list(handle.notes), [one.reducer for one in handle.stacks.values()]
        learning = [type(r.reducer).__name__ for r in active if isinstance(r, nn.Module)]
        if learning and not row.weights:
            raise UnfitReducerError(
                f"{', '.join(learning)} learns which tokens go, and there are no trained weights for it here, only "
                "arbitrary ones. Train it with the model (tokenreduce finetune) and give the row its weights "
                "(--tuned FOLDER)"
            )
        if row.weights:
            row.notes.append(f"fine-tuned weights of {row.weights}; rows without this note have the model's own")
        bench.drawing[row.name] = seeded_stacks(handle)
        drawn = any(reducer.stochastic for reducer in active)
        row.reducer, row.options = options_in_force(row, handle)
    row.seeds = list(seeds if drawn else seeds[:1])


def seeded_stacks(handle: Attachment) -> set[str]:
    """Stacks whose reducer draws and takes the option ``seed``."""
    active = {name: one.reducer for name, one in handle.stacks.items()}
    return {name for name, r in active.items() if r.stochastic and "seed" in r.reducer.option_defaults()}


def options_in_force(row: Row, handle: Attachment) -> tuple[Any, dict[str, Any]]:
    """Reducer and options as they are in force."""
    config = {k: v for k, v in handle.config.items() if k not in ("adapter", "trace", "restore")}
    reducer = config.pop("reducer")
    return reducer if isinstance(reducer, dict) else row.reducer, config


def _solve(bench: Context, row: Row, dense: int) -> dict[str, Any]:
    samples = 1 if row.target_macs is None else bench.cost_batch
    given = attach_arguments(row)
    inputs = bench.inputs(samples)
    put = partial(bench.attach, bench.model)
    return solve_options(bench.model, put, inputs, given, samples, ratio=row.ratio, share=row.target_macs, dense=dense)


def score_row(bench: Context, row: Row) -> None:
    """Fill in scores, accuracy and groups, one pass over the data for each seed."""
    by_seed = []
    for seed in row.seeds:
        facts = {
            **bench.facts(row, **with_seed(bench, row, seed)),
            "seed": seed,
            "data": [bench.data, bench.sizes],
        }
        by_seed.append(bench.cell("scores", facts, lambda seed=seed: _scores(bench, row, seed)))  # type: ignore[misc]
        bench.tick(f"{row.name}: accuracy")
    row.scores = mean_over_seeds(by_seed)
    row.accuracy_by_seed = [sum(scores) / len(scores) for scores in by_seed]
    row.accuracy = sum(row.accuracy_by_seed) / len(by_seed)
    groups: dict[str, list[float]] = {}
    for group, score in zip(bench.groups, row.scores, strict=False):
        groups.setdefault(group, []).append(score)
    row.groups = {group: sum(values) / len(values) for group, values in sorted(groups.items())}


def with_seed(bench: Context, row: Row, seed: int) -> dict[str, Any]:
    """What to attach with a seed's draws: the option ``seed`` of every reducer that draws and has it."""
    arguments, stacks = attach_arguments(row), bench.drawing[row.name]
    if not isinstance(arguments["reducer"], dict):
        return {**arguments, "seed": arguments.get("seed", 0) + seed} if stacks else arguments
    parts = arguments["reducer"].items()
    seeded = {name: {**part, "seed": part.get("seed", 0) + seed} if name in stacks else part for name, part in parts}
    return {**arguments, "reducer": seeded}


def _scores(bench: Context, row: Row, seed: int) -> list[float]:
    """Every sample's score, judged by all processes together; what one of them raises is raised by all."""
    mine: dict[int, list[float]] = {}
    reason = None
    try:
        changes = with_seed(bench, row, seed)
        with attach_row(bench, row, **changes) as handle, torch.inference_mode():
            for index, batch in bench.each(row.input_size):
                torch.manual_seed(seed * 1_000_003 + index)
                score = bench.metric(call(handle.model, batch.inputs), batch.targets)
                mine[index] = _checked(score, len(batch))
    except TokenReduceError as error:
        reason = str(error)
    except Exception as error:  # a stranger's reducer or metric may raise anything
        reason = f"{type(error).__name__}: {error}"
    everywhere = bench.team.gather((mine, reason))
    reasons = [told for _, told in everywhere if told is not None]
    if reasons:
        raise OptionError(reasons[0])
    merged = {index: scores for part, _ in everywhere for index, scores in part.items()}
    return [value for index in sorted(merged) for value in merged[index]]


def _checked(score: Any, samples: int) -> list[float]:
    values: list[float] = torch.as_tensor(score).detach().float().cpu().reshape(-1).tolist()
    if len(values) != samples:
        raise OptionError(f"the metric gave {len(values)} scores for a batch of {samples}; give one score per sample")
    return values
