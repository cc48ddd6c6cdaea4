"""ViLT that says how well a text fits a picture. Axes: B batch, K texts, T text tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds

from .inputs import Pictures, Words
from .reading import image_processor_of, model_of, tokenizer_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenreduce import Task


class Matching(nn.Module):
    """A ``ViltForImageAndTextRetrieval`` and the texts that it is given with every picture: B * K passes for B."""

    def __init__(self, model: nn.Module, texts: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(texts)
        for name, value in texts.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **texts: Tensor) -> Tensor:
        """Scores (B, K) with its own texts (K, T), or with ``texts`` if they are given."""
        texts = texts or {name: getattr(self, name) for name in self.names}
        if not texts:
            return pixel_values.new_zeros(len(pixel_values), 0)
        pictures, count = len(pixel_values), len(next(iter(texts.values())))
        pairs = {name: value.repeat(pictures, 1) for name, value in texts.items()}
        pairs["pixel_values"] = pixel_values.repeat_interleave(count, dim=0)
        if pixel_mask is not None:
            pairs["pixel_mask"] = pixel_mask.repeat_interleave(count, dim=0)
        scores: Tensor = self.model(**pairs).logits
        return torch.unflatten(scores[:, 0], 0, (pictures, count))


def task(name: str, kind: str, records: Sequence[Record]) -> Task:
    """The text that fits each picture best, of the choices or of all texts in the file."""
    texts = kinds.texts_of(records)
    model = model_of(name, kind)
    pictures = Pictures(image_processor_of(name))
    words = Words(tokenizer_of(name), texts, model.config.max_position_embeddings)
    scorer = Matching(model, words(texts) if texts else {})

    def prepare(images: Sequence[Image], given: Sequence[str]) -> dict[str, Tensor]:
        asked = {} if texts or not any(given) else words(given)
        return {**pictures(images), **asked}

    remarks = (partial(words.remarks, alike=True),)
    return kinds.best_text(kinds.Source(name, scorer, records, prepare, pictures.scale, remarks=remarks), texts)
