"""The embedded task, as the registry gives it to an ablation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

from tokenreduce.lab.task import Batch, Sample, Task

from .evaluate import HELD_OUT_SEED, TUNING_SEED, VALIDATION_SEED
from .model import load
from .pictures import to_image, to_pixels
from .scenes import Scene, SceneFactory, collate
from .words import ANSWERS, decode, encode

if TYPE_CHECKING:
    from PIL.Image import Image

# About as many tokens as PuMer's published schedule leaves after each of its three sites, so that rows compare.
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.6, "layers": [2, 5, 8]},
    "evit": {"keep": 0.6, "layers": [2, 5, 8]},
    "tome": {"r": 12},
    "pumer tuned": {"weights": str(Path(__file__).parent / "tuned" / "pumer")},
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
        prepare,
        samples,
        answers,
        train,
        validation,
        loss,
    )


def held_out(samples: int, batch: int) -> list[Batch]:
    """The first ``samples`` held-out scenes in batches."""
    return in_batches(_factory("held-out", HELD_OUT_SEED), samples, batch)


def validation(samples: int, batch: int) -> list[Batch]:
    """As :func:`held_out`: other scenes of the same held-out digits."""
    return in_batches(_factory("held-out", VALIDATION_SEED), samples, batch)


def train(seed: int, first: int, count: int) -> Batch:
    """Scenes of the training digits that the training of the shipped weights has not seen."""
    factory = _factory("train", TUNING_SEED + seed)
    return as_batch([factory(first + i) for i in range(count)])


def loss(output: Any, answer: Tensor) -> Tensor:
    """Cross-entropy of the answers."""
    return F.cross_entropy(output.logits.float(), answer.to(output.logits.device))


def in_batches(factory: SceneFactory, samples: int, batch: int) -> list[Batch]:
    """The first ``samples`` scenes of a factory in batches."""
    starts = range(0, samples, batch)
    return [as_batch([factory(i) for i in range(first, min(first + batch, samples))]) for first in starts]


def as_batch(scenes: list[Scene]) -> Batch:
    """Scenes as inputs, right answers and kinds of question."""
    inputs = collate(scenes)
    answer = inputs.pop("answer")
    return Batch(inputs, answer, [scene.kind for scene in scenes])


@functools.cache
def _factory(split: str, seed: int) -> SceneFactory:
    return SceneFactory(split, seed)


def right(output: Any, answer: Tensor) -> Tensor:
    """(S,) 1 where the most likely answer is right."""
    return (output.logits.argmax(dim=-1) == answer.to(output.logits.device)).float()


def prepare(images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
    """B pictures of any size and a question each, as inputs of the model.

    Raises:
        OptionError: a question is too long. A word that the model does not know counts as ``[UNK]``.
    """
    ids, mask = encode(texts)
    return {"pixel_values": to_pixels(images), "input_ids": ids, "attention_mask": mask}


def samples(batch: Batch) -> list[Sample]:
    """What a person sees of each sample; without an answer where the batch has no targets."""
    assert not isinstance(batch.inputs, tuple)
    images, questions = to_image(batch.inputs["pixel_values"]), decode(batch.inputs["input_ids"])
    right = [""] * len(questions) if batch.targets is None else [ANSWERS[int(target)] for target in batch.targets]
    return [Sample(*parts) for parts in zip(images, questions, right, strict=True)]


def answers(output: Any) -> list[str]:
    """The most likely answer to each sample."""
    return [ANSWERS[index] for index in output.logits.argmax(dim=-1).tolist()]
