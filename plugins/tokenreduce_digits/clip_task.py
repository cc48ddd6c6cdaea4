"""The zero-shot task, as the registry gives it to an ablation, and its accuracy on held-out scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenreduce.errors import OptionError
from tokenreduce.tasks import Batch, Sample
from tokenreduce.tasks.task import Task

from .captions import CAPTIONS, CLASSES
from .clip_model import load
from .clutter import Cluttered, ClutterFactory, pixel_values, targets
from .evaluation import accuracy_by_group
from .pictures import to_image, to_pixels
from .splits import Splits
from .task import loss, right
from .words import COLOURS

if TYPE_CHECKING:
    from PIL.Image import Image

# About as many multiply-adds as PuMer leaves in six blocks, so that rows compare.
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.6, "layers": [0, 2, 3]},
    "evit": {"keep": 0.6, "layers": [0, 2, 3]},
    "tome": {"r": {"r": 20, "inflection": -1}},
}


def clip_digits() -> Task:
    """The trained CLIP, held-out scenes, and whether the caption it likes best is right."""
    return Task(
        "clip-digits",
        load(),
        held_out,
        right,
        SETTINGS,
        "one of 60 captions for a held-out handwritten digit among fragments of others",
        prepare,
        samples,
        answers,
        train,
        validation,
        loss,
    )


def as_batch(scenes: list[Cluttered]) -> Batch:
    """Scenes as inputs, right captions and colours."""
    return Batch({"pixel_values": pixel_values(scenes)}, targets(scenes), [scene.colour for scene in scenes])


SPLITS = Splits(ClutterFactory, as_batch)
held_out, validation, train = SPLITS.held_out, SPLITS.validation, SPLITS.train


def prepare(images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
    """B pictures of any size as inputs of the model.

    Raises:
        OptionError: a text is given; the model always chooses among its own captions.
    """
    if any(texts):
        raise OptionError(f"this model chooses among {len(CAPTIONS)} captions of its own; leave the text out")
    return {"pixel_values": to_pixels(images)}


def samples(batch: Batch) -> list[Sample]:
    """What a person sees of each sample; without an answer where the batch has no targets."""
    assert not isinstance(batch.inputs, tuple)
    images = to_image(batch.inputs["pixel_values"])
    right = [""] * len(images) if batch.targets is None else [CAPTIONS[int(target)] for target in batch.targets]
    return [Sample(image, "", caption) for image, caption in zip(images, right, strict=True)]


def answers(output: Any) -> list[str]:
    """The most likely caption of each sample."""
    return [CAPTIONS[index] for index in output.logits.argmax(dim=-1).tolist()]


def accuracy(model: nn.Module, samples: int = 500, batch: int = 100) -> dict[str, float]:
    """Shares of right captions on the first ``samples`` held-out scenes: ``all``, and each digit and colour."""
    return accuracy_by_group(
        model, held_out(samples, batch), right, (*map(str, range(10)), *COLOURS), _digit_and_colour
    )


def _digit_and_colour(batch: Batch) -> list[list[str]]:
    named = [CLASSES[int(target)] for target in batch.targets]
    return [[str(digit) for _, digit in named], [colour for colour, _ in named]]
