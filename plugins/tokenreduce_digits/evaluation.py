"""Accuracy on held-out scenes, of all of them and by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.tasks import Batch

from .scenes import KINDS
from .task import held_out, right


def accuracy_by_kind(model: nn.Module, samples: int = 500, batch: int = 100) -> dict[str, float]:
    """Share of right answers on the first ``samples`` held-out scenes: ``all`` and each question type."""
    return accuracy_by_group(model, held_out(samples, batch), right, KINDS, lambda part: [part.groups or []])


def accuracy_by_group(
    model: nn.Module,
    batches: Iterable[Batch],
    metric: Callable[[Any, Tensor], Tensor],
    names: Iterable[str],
    labels: Callable[[Batch], Iterable[Sequence[str | None]]],
) -> dict[str, float]:
    """Mean scores: ``all``, and each group of ``names``.

    Args:
        metric: ``metric(output, targets)`` gives a score per sample.
        labels: for a batch, ways to group it, each with a group's name per sample, None for a sample without one.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    scores: dict[str, list[float]] = {name: [] for name in ("all", *names)}
    with torch.inference_mode():
        for batch in batches:
            assert isinstance(batch.inputs, Mapping)
            output = model(**{name: value.to(device) for name, value in batch.inputs.items()})
            values = metric(output, batch.targets).tolist()
            scores["all"] += values
            for groups in labels(batch):
                for name, value in zip(groups, values, strict=True):
                    if name is not None:
                        scores[name].append(value)
    model.train(was_training)
    return {name: round(sum(values) / max(len(values), 1), 4) for name, values in scores.items()}
