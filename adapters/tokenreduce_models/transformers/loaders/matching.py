"""Models that say how well a text fits a picture, one pair at a time. Axes: B batch, K texts, T text tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds

from .inputs import TEXT_NAMES, Pictures, Words
from .reading import image_processor_of, model_of, tokenizer_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenreduce import Task


def first_logit(output: Any) -> Tensor:
    """ViLT: one logit for each pair."""
    logit: Tensor = output.logits[:, 0]
    return logit


def second_logit(output: Any) -> Tensor:
    """BridgeTower: how far the logit for a match is above the other."""
    logits: Tensor = output.logits
    return logits[:, 1] - logits[:, 0]


def second_score(output: Any) -> Tensor:
    """BLIP's matching head: how far the logit for a match is above the other."""
    scores: Tensor = output.itm_score
    return scores[:, 1] - scores[:, 0]


SCORES: dict[str, Callable[[Any], Tensor]] = {
    "ViltForImageAndTextRetrieval": first_logit,
    "BlipForImageTextRetrieval": second_score,
    "BridgeTowerForImageAndTextRetrieval": second_logit,
}
"""The score of a pair, out of what a model of each class gives for it."""


class Matching(nn.Module):
    """A model of :data:`SCORES` and the texts that it is given with every picture: B * K passes for B."""

    def __init__(self, model: nn.Module, texts: dict[str, Tensor], score: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.names, self.score = model, tuple(texts), score
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
        return torch.unflatten(self.score(self.model(**pairs)), 0, (pictures, count))


def task(name: str, kind: str, records: Sequence[Record]) -> Task:
    """The text that fits each picture best, of the choices or of all texts in the file."""
    texts = kinds.texts_of(records)
    model = model_of(name, kind)
    pictures = Pictures(image_processor_of(name), masks=not kind.startswith("Blip"))
    config = getattr(model.config, "text_config", None) or model.config
    names = TEXT_NAMES[:2] if kind.startswith("Blip") else TEXT_NAMES
    words = Words(tokenizer_of(name), texts, config.max_position_embeddings, names=names)
    scorer = Matching(model, words(texts) if texts else {}, SCORES[kind])

    def prepare(images: Sequence[Image], given: Sequence[str]) -> dict[str, Tensor]:
        asked = {} if texts or not any(given) else words(given)
        return {**pictures(images), **asked}

    remarks = (partial(words.remarks, alike=True),)
    return kinds.best_text(kinds.Source(name, scorer, records, prepare, pictures.scale, remarks=remarks), texts)
