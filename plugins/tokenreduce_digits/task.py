"""The embedded task, as the registry gives it to an ablation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenreduce.lab.task import Batch, Task

from .evaluate import HELD_OUT_SEED
from .model import load
from .scenes import SceneFactory, collate

# About as many tokens as PuMer's published schedule leaves after each of its three sites, so that rows compare.
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.6, "layers": [2, 5, 8]},
    "evit": {"keep": 0.6, "layers": [2, 5, 8]},
    "tome": {"r": 12},
}


def vilt_digits() -> Task:
    """The trained ViLT, held-out scenes, and whether the answer is right."""
    return Task(
        "vilt-digits",
        load(),
        held_out,
        right,
        SETTINGS,
        "questions about scenes of held-out handwritten digits",
    )


def held_out(samples: int, batch: int) -> list[Batch]:
    """The first ``samples`` held-out scenes in batches."""
    factory = SceneFactory("held-out", HELD_OUT_SEED)
    batches = []
    for first in range(0, samples, batch):
        scenes = [factory(i) for i in range(first, min(first + batch, samples))]
        inputs = collate(scenes)
        answer = inputs.pop("answer")
        batches.append(Batch(inputs, answer, [scene.kind for scene in scenes]))
    return batches


def right(output: Any, answer: Tensor) -> Tensor:
    """(S,) 1 where the most likely answer is right."""
    return (output.logits.argmax(dim=-1) == answer.to(output.logits.device)).float()
