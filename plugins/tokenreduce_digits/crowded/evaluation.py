"""Accuracy on held-out crowded scenes, of all of them and by kind of question."""

from __future__ import annotations

from torch import nn

from ..evaluation import accuracy_by_group
from ..task import right
from .questions import KINDS
from .task import held_out


def accuracy_by_kind(model: nn.Module, samples: int = 500, batch: int = 100) -> dict[str, float]:
    """Share of right answers on the first ``samples`` held-out scenes: ``all`` and each question type."""
    return accuracy_by_group(model, held_out(samples, batch), right, KINDS, lambda part: [part.groups or []])
