"""The embedded task, as the registry gives it to an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from tokenreduce.tasks import Batch, Sample
from tokenreduce.tasks.task import Task

from .model import load
from .pictures import to_image, to_pixels
from .scenes import Scene, SceneFactory, collate
from .splits import Splits
from .words import ANSWERS, decode, encode

if TYPE_CHECKING:
    from PIL.Image import Image

# About as many tokens as PuMer's published schedule leaves after each of its three sites, so that rows compare.
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.6, "layers": [2, 5, 8]},
    "evit": {"keep": 0.6, "layers": [2, 5, 8]},
    "tome": {"r": 12},
}


def vilt_digits() -> Task:
    """The trained ViLT, held-out scenes, and whether the answer is right."""
    return question_task("vilt-digits", load(), SETTINGS, "questions about scenes of held-out handwritten digits")


def question_task(name: str, model: nn.Module, settings: dict[str, dict[str, Any]], description: str) -> Task:
    """The questions for a model that answers them."""
    shown = (prepare, samples, answers)
    return Task(name, model, held_out, right, settings, description, *shown, train, validation, loss)


def as_batch(scenes: list[Scene]) -> Batch:
    """Scenes as inputs, right answers and kinds of question."""
    inputs = collate(scenes)
    answer = inputs.pop("answer")
    return Batch(inputs, answer, [scene.kind for scene in scenes])


SPLITS = Splits(SceneFactory, as_batch)
held_out, validation, train = SPLITS.held_out, SPLITS.validation, SPLITS.train


def loss(output: Any, answer: Tensor) -> Tensor:
    """Cross-entropy of the answers."""
    return F.cross_entropy(output.logits.float(), answer.to(output.logits.device))


def right(output: Any, answer: Tensor) -> Tensor:
    """(S,) 1 where the most likely answer is right."""
    score: Tensor = (output.logits.argmax(dim=-1) == answer.to(output.logits.device)).float()
    return score


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
