"""The task of the crowded scenes, as the registry gives it to an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenreduce.tasks import Batch, Sample
from tokenreduce.tasks.task import Task

from ..pictures import to_image, to_pixels
from ..splits import Splits
from ..task import answers, loss, right
from ..words import ANSWERS, decode, encode
from .model import load
from .questions import LENGTH, WORDS
from .scenes import Crowd, CrowdFactory, collate

if TYPE_CHECKING:
    from PIL.Image import Image

TUNED = Path(__file__).parent / "tuned"
# About as many multiply-adds as PuMer's published schedule needs, so that rows compare.
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.57, "layers": [2, 5, 8]},
    "evit": {"keep": 0.56, "layers": [2, 5, 8]},
    "tome": {"r": 12},
    "random tuned": {"weights": str(TUNED / "random")},
    "pumer tuned": {"weights": str(TUNED / "pumer")},
    "smarttrim trained": {"weights": str(TUNED / "smarttrim")},  # the trimmers alone, on the model as it is
}


def vilt_scenes() -> Task:
    """The trained ViLT, held-out scenes, and whether the answer is right."""
    description = "questions about small handwritten digits in crowded scenes"
    shown = (prepare, samples, answers)
    return Task("vilt-scenes", load(), held_out, right, SETTINGS, description, *shown, train, validation, loss)


def as_batch(scenes: list[Crowd]) -> Batch:
    """Scenes as inputs, right answers and kinds of question."""
    inputs = collate(scenes)
    answer = inputs.pop("answer")
    return Batch(inputs, answer, [scene.question.kind for scene in scenes])


SPLITS = Splits(CrowdFactory, as_batch)
held_out, validation, train = SPLITS.held_out, SPLITS.validation, SPLITS.train


def prepare(images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
    """B pictures of any size and a question each, as inputs of the model.

    Raises:
        OptionError: a question is too long. A word that the model does not know counts as ``[UNK]``.
    """
    ids, mask = encode(texts, LENGTH, WORDS)
    return {"pixel_values": to_pixels(images), "input_ids": ids, "attention_mask": mask}


def samples(batch: Batch) -> list[Sample]:
    """What a person sees of each sample; without an answer where the batch has no targets."""
    assert not isinstance(batch.inputs, tuple)
    images, questions = to_image(batch.inputs["pixel_values"]), decode(batch.inputs["input_ids"], WORDS)
    expected = [""] * len(questions) if batch.targets is None else [ANSWERS[int(target)] for target in batch.targets]
    return [Sample(*parts) for parts in zip(images, questions, expected, strict=True)]
