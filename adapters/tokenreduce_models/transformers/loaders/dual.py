"""CLIP and SigLIP: each picture is scored against texts. Axes: B batch, K texts, D width of the shared space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds
from tokenreduce.tasks.zero_shot import ZeroShot

from .inputs import Pictures, Words
from .reading import image_processor_of, model_of, tokenizer_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenreduce import Task


class DualEncoder(ZeroShot):
    """A ``CLIPModel`` or ``SiglipModel`` and its texts."""

    def image_features(self, pixels: Tensor) -> Tensor:
        return pooled(self.model.get_image_features(pixel_values=pixels))

    def text_features(self, **tokens: Tensor) -> Tensor:
        return pooled(self.model.get_text_features(**tokens))

    def scaled(self, cosines: Tensor) -> Tensor:
        logits: Tensor = cosines * self.model.logit_scale.exp()
        return logits + self.model.logit_bias if hasattr(self.model, "logit_bias") else logits


def pooled(features: Any) -> Tensor:
    """The features (B, D), which newer versions of the library hand over in an output."""
    found: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return found


def task(name: str, kind: str, records: Sequence[Record]) -> Task:
    """Zero-shot: texts are taken as they are written in the data file.

    SigLIP was trained on texts padded to its full length without a mask, and gets them so.
    """
    texts = kinds.texts_of(records)
    model = model_of(name, kind)
    pictures = Pictures(image_processor_of(name))
    sigmoid = kind == "SiglipModel"
    taken = ("input_ids",) if sigmoid else ("input_ids", "attention_mask")
    limit = model.config.text_config.max_position_embeddings
    words = Words(tokenizer_of(name), texts, limit, always=sigmoid, names=taken)
    scorer = DualEncoder(model)
    if texts:
        scorer.learn(words.parts(texts))

    def prepare(images: Sequence[Image], given: Sequence[str]) -> dict[str, Tensor]:
        asked = {} if texts or not any(given) else words(given)
        return {**pictures(images), **asked}

    remarks = (partial(words.remarks, alike=True),)
    return kinds.best_text(kinds.Source(name, scorer, records, prepare, pictures.scale, remarks=remarks), texts)
