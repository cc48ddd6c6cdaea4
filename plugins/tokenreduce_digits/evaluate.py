"""Accuracy on held-out scenes, per question type."""

from __future__ import annotations

import torch
from torch import nn

from .scenes import KINDS, SceneFactory, collate
from .splits import HELD_OUT_SEED


def accuracy_by_kind(model: nn.Module, samples: int = 500, batch: int = 100) -> dict[str, float]:
    """Share of right answers on the first ``samples`` held-out scenes: ``all`` and each question type."""
    factory = SceneFactory("held-out", HELD_OUT_SEED)
    was_training = model.training
    model.eval()
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    with torch.inference_mode():
        for first in range(0, samples, batch):
            scenes = [factory(i) for i in range(first, min(first + batch, samples))]
            inputs = collate(scenes)
            answer = inputs.pop("answer")
            hit = model(**inputs).logits.argmax(-1) == answer
            for scene, value in zip(scenes, hit.tolist(), strict=True):
                right[scene.kind].append(value)
    model.train(was_training)
    everything = [value for values in right.values() for value in values]
    shares = {kind: sum(values) / max(len(values), 1) for kind, values in right.items()}
    return {"all": sum(everything) / len(everything)} | {k: round(v, 4) for k, v in shares.items()}
