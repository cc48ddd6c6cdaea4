"""A task: a model, data to judge it on, and a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Args:
        inputs: keyword arguments of the model's call.
        targets: whatever the metric compares with.
        groups: a label per sample, for a score per group (question types, say).
    """

    inputs: Mapping[str, Any]
    targets: Any
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Task:
    """What an ablation needs. A plugin gives one through ``tokenreduce_tasks``.

    Args:
        name: what the user types after ``--model``.
        model: ready for evaluation.
        data: ``data(samples, batch)`` gives batches that can be gone through again.
        metric: ``metric(output, targets)`` gives the score of each sample, (B,), higher is better.
        settings: options by reducer that suit this model; reducers without an entry run with their defaults. A
            further name with the option ``"reducer"`` is a variant, and a row of its own.
        description: one line.
    """

    name: str
    model: nn.Module
    data: Callable[[int, int], Sequence[Batch]]
    metric: Callable[[Any, Any], Tensor]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    description: str = ""
