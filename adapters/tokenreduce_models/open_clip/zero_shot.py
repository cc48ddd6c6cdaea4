"""A dual encoder of open_clip and the texts that pictures are scored against. Axes: B batch, K texts, D width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenreduce.errors import UnsupportedModelError
from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds
from tokenreduce.tasks.batches import Scale
from tokenreduce.tasks.zero_shot import ZeroShot

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenreduce import Task

STEP = 256  # texts that are encoded at once


class DualEncoder(ZeroShot):
    """A model of open_clip and its texts."""

    def image_features(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.model.encode_image(pixels)
        return found

    def text_features(self, **tokens: Tensor) -> Tensor:
        found: Tensor = self.model.encode_text(tokens["text"])
        return found

    def scaled(self, cosines: Tensor) -> Tensor:
        logits: Tensor = cosines * self.model.logit_scale.exp()
        bias = getattr(self.model, "logit_bias", None)
        return logits if bias is None else logits + bias


def task(name: str, model: Any, transform: Any, tokenizer: Any, records: Sequence[Record]) -> Task:
    """Zero-shot with open_clip's own transform and tokenizer; texts are taken as they are written in the data file."""
    if not (hasattr(model, "encode_image") and hasattr(model, "encode_text")):
        raise UnsupportedModelError(f"{name!r} is a {type(model).__name__}, which does not encode pictures and texts")
    texts = kinds.texts_of(records)
    scorer = DualEncoder(model.eval())
    if texts:
        scorer.learn({"text": tokenizer(texts[i : i + STEP])} for i in range(0, len(texts), STEP))

    def prepare(images: Sequence[Image], given: Sequence[str]) -> dict[str, Tensor]:
        asked = {} if texts or not any(given) else {"text": tokenizer(list(given))}
        return {"pixel_values": torch.stack([transform(image) for image in images]), **asked}

    made = model.visual.preprocess_cfg
    scale = Scale(tuple(made["mean"]), tuple(made["std"]))
    source = kinds.Source(name, scorer, records, prepare, scale, remarks=(partial(remarks, tokenizer, texts),))
    return kinds.best_text(source, texts)


def remarks(tokenizer: Any, texts: Sequence[str], records: Sequence[Record]) -> Iterator[str]:
    """How many texts are cut, and how many are the same as another one to the model."""
    if not texts:
        return
    tokens = torch.cat([tokenizer(list(texts[i : i + STEP])) for i in range(0, len(texts), STEP)])
    length = tokens.shape[1]
    if hasattr(tokenizer, "encode"):  # open_clip's own, which puts a token in front and one behind
        cut = sum(len(tokenizer.encode(text)) + 2 > length for text in texts)
    else:
        inner = getattr(tokenizer, "tokenizer", None)
        cut = 0 if inner is None else sum(len(ids) > length for ids in inner(list(texts))["input_ids"])
    if cut:
        yield f"{cut} of {len(texts)} texts are longer than the {length} tokens that the model takes, and are cut"
    same = len(texts) - len({tuple(row) for row in tokens.tolist()})
    if same:
        yield f"{same} of {len(texts)} texts are to the model as another one is, and of equal scores the first wins"
