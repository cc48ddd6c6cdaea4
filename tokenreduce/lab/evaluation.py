"""A row's options at its level, and its score on every sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..attachments.handle import Attachment
from ..errors import OptionError, UnfitReducerError, guard
from ..measure.calibration import solve_options
from ..measure.macs import keeps_by_sample
from ..tasks.retrieval import WholeMetric
from ..train.weights import of_reducer_alone
from .context import Context, attach_arguments, attach_row
from .result import Row
from .statistics import mean_over_seeds

MOST = 1e100  # a score, either way: its square is a number too
Score = Annotated[float, Ge(-MOST), Le(MOST)]


@dataclass
class Scores:
    """A cell: the score of every sample for one seed, and for how many samples the output was not finite."""

    scores: list[Score]
    not_finite: int


@dataclass
class Solved:
    """A cell: the reducer, or a mapping of stacks, and its options with which a row reaches its level."""

    reducer: Any
    options: dict[str, Any]


def resolve_row(bench: Context, row: Row, dense: int, seeds: Sequence[int]) -> None:
    """Solve for the row's level, if it has one, and put the options in force, its seeds and its notes into it."""
    if row.ratio is not None or row.target_macs is not None:
        level = {"ratio": row.ratio, "macs": row.target_macs, "dense": dense if row.ratio is None else None}
        level["samples"] = bench.cost_batch
        facts = {**bench.facts(row), **level, **bench.of_first}
        work = partial(bench.team.alone, partial(_solve, bench, row, dense))
        solved: Solved = bench.cell("solve", Solved, facts, work)
        row.reducer, row.options = solved.reducer, solved.options
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
            row.notes.append(_weights_note(row.weights))
        bench.drawing[row.name] = seeded_stacks(handle)
        drawn = any(reducer.stochastic for reducer in active)
        row.reducer, row.options = options_in_force(row, handle)
    row.seeds = list(seeds if drawn else seeds[:1])


def _weights_note(folder: str) -> str:
    """Whose weights a row has, where they are not the model's own."""
    if of_reducer_alone(folder):
        return f"trained weights of {folder} for the reducer; the model has its own, as in rows without this note"
    return f"fine-tuned weights of {folder}; rows without this note have the model's own"


def seeded_stacks(handle: Attachment) -> set[str]:
    """Stacks whose reducer draws and takes the option ``seed``."""
    active = {name: one.reducer for name, one in handle.stacks.items()}
    return {name for name, r in active.items() if r.stochastic and "seed" in r.reducer.option_defaults()}


def options_in_force(row: Row, handle: Attachment) -> tuple[Any, dict[str, Any]]:
    """Reducer and options as they are in force."""
    config = {k: v for k, v in handle.config.items() if k not in ("adapter", "trace", "restore")}
    reducer = config.pop("reducer")
    return reducer if isinstance(reducer, dict) else row.reducer, config


def _solve(bench: Context, row: Row, dense: int) -> Solved:
    given = attach_arguments(row)
    with bench.names_of(row), bench.attach(bench.model, given) as handle:
        several = row.target_macs is not None or keeps_by_sample(handle)  # then it is a mean
    samples = bench.cost_batch if several else 1
    inputs = bench.inputs(samples)
    put = partial(bench.attach, bench.model)
    level: dict[str, Any] = {"ratio": row.ratio, "share": row.target_macs, "dense": dense}
    with bench.names_of(row):
        found = solve_options(bench.model, put, inputs, given, samples, **level)
    return Solved(found.pop("reducer"), found)


def score_row(bench: Context, row: Row) -> None:
    """Fill in scores, accuracy and groups, one pass over the data for each seed."""
    found = [score_seed(bench, row, seed) for seed in row.seeds]
    by_seed, lost = [one.scores for one in found], max(one.not_finite for one in found)
    if lost:
        row.notes.append(
            f"the model's output is not finite (NaN or infinite) for {lost} of {len(by_seed[0])} samples, whose scores "
            "mean nothing"
        )
    row.scores = mean_over_seeds(by_seed)
    row.accuracy_by_seed = [sum(scores) / len(scores) for scores in by_seed]
    row.accuracy = sum(row.accuracy_by_seed) / len(by_seed)
    groups: dict[str, list[float]] = {}
    for group, score in zip(bench.groups, row.scores, strict=bool(bench.groups)):
        groups.setdefault(group, []).append(score)
    row.groups = {group: sum(values) / len(values) for group, values in sorted(groups.items())}


def score_seed(bench: Context, row: Row, seed: int) -> Scores:
    """One pass over the data, or what was kept of it."""
    facts = {
        **bench.facts(row, **with_seed(bench, row, seed)),
        "seed": seed,
        "data": [bench.data, bench.sizes],
        "metric": bench.depends.metric,
    }
    work = partial(_scores, bench, row, seed)
    found: Scores = bench.cell("scores", Scores, facts, work, "scores", fits=partial(_fits, sum(bench.sizes)))
    bench.tick(f"{row.name}: accuracy")
    return found


def _fits(samples: int, cell: Scores) -> bool:
    return len(cell.scores) == samples


def with_seed(bench: Context, row: Row, seed: int) -> dict[str, Any]:
    """What to attach with a seed's draws: the option ``seed`` of every reducer that draws and has it."""
    arguments, stacks = attach_arguments(row), bench.drawing[row.name]
    if not isinstance(arguments["reducer"], dict):
        return {**arguments, "seed": arguments.get("seed", 0) + seed} if stacks else arguments
    parts = arguments["reducer"].items()
    seeded = {name: {**part, "seed": part.get("seed", 0) + seed} if name in stacks else part for name, part in parts}
    return {**arguments, "reducer": seeded}


def _scores(bench: Context, row: Row, seed: int) -> Scores:
    """Every sample's score, judged by all processes together; what one of them raises is raised by all.

    Raises:
        OptionError: what was raised, or not one output is finite.
    """
    mine: dict[int, Any] = {}
    whole = bench.metric if isinstance(bench.metric, WholeMetric) else None
    lost, reasons = 0, list[str]()
    with guard(reasons.append):
        changes = with_seed(bench, row, seed)
        with attach_row(bench, row, **changes) as handle, torch.inference_mode():
            for index, batch in bench.each(row.input_size):
                torch.manual_seed((seed * 1_000_003 + index) % 2**63)
                output = bench.ask(handle.model, batch.inputs)
                lost += not_finite(output, len(batch))
                if whole is not None:
                    mine[index] = whole.keep(output, batch.targets)
                else:
                    mine[index] = check_scores(bench.metric(output, batch.targets), len(batch), index)
    everywhere = bench.team.gather((mine, lost, reasons))
    reasons = [told for _, _, some in everywhere for told in some]
    if reasons:
        raise OptionError(reasons[0])
    merged = {index: scores for part, _, _ in everywhere for index, scores in part.items()}
    if whole is not None:
        merged = {0: check_scores(whole.finish([merged[index] for index in sorted(merged)]), sum(bench.sizes), 0)}
    lost = sum(count for _, count, _ in everywhere)
    if lost == sum(bench.sizes):
        raise OptionError("the model's output is not finite (NaN or infinite) for any of the samples")
    return Scores([value for index in sorted(merged) for value in merged[index]], lost)


def check_scores(score: Any, samples: int, index: int) -> list[float]:
    """A metric's scores of a batch as numbers.

    Raises:
        OptionError: not one for each sample, or some that are not finite.
    """
    values: list[float] = torch.as_tensor(score).detach().double().cpu().reshape(-1).tolist()
    if len(values) != samples:
        raise OptionError(f"the metric gave {len(values)} scores for a batch of {samples}; give one score per sample")
    wrong = [value for value in values if not abs(value) < MOST]
    if wrong:
        raise OptionError(
            f"the metric gave {len(wrong)} of {samples} scores in batch {index} that are no finite numbers below "
            f"{MOST:g}, the first of them {wrong[0]}; see the metric of the task"
        )
    return values


def not_finite(output: Any, samples: int) -> int:
    """How many samples have an output that is not finite: NaN, plus infinity, or nothing but minus infinity.

    Minus infinity alone is how models rule a class out. Of outputs with several parts the logits count, or the first
    tensor of floating-point numbers.
    """
    values = next((one for one in _floating(output) if one.ndim and len(one) == samples), None)
    if values is None:
        return 0
    rows = values.detach().reshape(samples, -1)
    bad = rows.isnan().any(1) | (rows == torch.inf).any(1) | (rows == -torch.inf).all(1)
    return int(bad.sum()) if rows.shape[1] else 0


def _floating(output: Any) -> Iterator[Tensor]:
    for name in ("logits", "logits_per_image"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value
    for value in tree_leaves(output):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value
