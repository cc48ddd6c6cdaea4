"""Models with a head over answers or classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import UnsupportedModelError
from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds

from .inputs import Pictures, Words
from .reading import image_processor_of, model_of, tokenizer_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from tokenreduce import Task


def questions(name: str, kind: str, records: Sequence[Record]) -> Task:
    """ViLT with its answers (``id2label``); text is cut at the positions that the model has (40 as published)."""
    model = model_of(name, kind)
    pictures = Pictures(image_processor_of(name))
    words = Words(tokenizer_of(name), [record.text for record in records], model.config.max_position_embeddings)

    def prepare(images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
        return {**words(texts), **pictures(images)}

    source = kinds.Source(name, model, records, prepare, pictures.scale, remarks=(words.remarks,))
    return kinds.questions(source, names_of(model.config))


def classes(name: str, kind: str, records: Sequence[Record]) -> Task:
    """A classifier of pictures with its classes (``id2label``); texts are shown, the model does not see them."""
    model = model_of(name, kind)
    pictures = Pictures(image_processor_of(name))

    def prepare(images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
        return {"pixel_values": pictures(images)["pixel_values"]}

    return kinds.classes(kinds.Source(name, model, records, prepare, pictures.scale), names_of(model.config))


def names_of(config: Any) -> list[str]:
    """The names of the classes, in order.

    Raises:
        UnsupportedModelError: numbers that do not run from 0 on.
    """
    found: Mapping[int, str] = config.id2label
    if sorted(found) != list(range(len(found))) or not found:
        raise UnsupportedModelError("id2label in config.json must name every class from 0 on; write it there")
    return [str(found[index]) for index in range(len(found))]
