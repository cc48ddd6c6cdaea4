"""ViLT that judges a sentence about two pictures (NLVR2). Axes: B batch, T text tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds
from tokenreduce.tasks.batches import samples

from .answering import names_of
from .inputs import Pictures, Words
from .reading import image_processor_of, model_of, tokenizer_of

if TYPE_CHECKING:
    from tokenreduce import Task


class PairSource(kinds.Source):
    """Pixels are (B, 2, 3, H, W); a person is shown both pictures, one beside the other."""

    def samples(self, batch: Any) -> list[Any]:
        pixels = batch.inputs[self.pixels]
        shown = torch.cat(list(pixels.unbind(dim=1)), dim=-1)
        return samples(shown, batch.targets, self.scale)


def task(name: str, kind: str, records: Sequence[Record]) -> Task:
    """Each record has two pictures, a sentence, and one of the model's classes ("True") as its answer.

    Raises:
        OptionError: a record has another number of pictures than the model compares.
    """
    model = model_of(name, kind)
    count = model.config.num_images
    for record in records:
        if 1 + len(record.more) != count:
            raise OptionError(
                f"{kinds.of(record)} has {1 + len(record.more)} pictures, and the model compares {count}; give them as "
                '"images": ["left.jpg", "right.jpg"]'
            )
    pictures = Pictures(image_processor_of(name))
    words = Words(tokenizer_of(name), [record.text for record in records], model.config.max_position_embeddings)

    def prepare(images: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        made = pictures([image for several in images for image in several])
        both = {key: torch.unflatten(side, 0, (len(images), count)) for key, side in made.items()}
        return {**words(texts), **both}

    source = PairSource(name, model, records, prepare, pictures.scale, remarks=(words.remarks,))
    return kinds.classes(source, names_of(model.config))
