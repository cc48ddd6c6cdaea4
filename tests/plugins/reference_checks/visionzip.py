"""VisionZip: the dominant tokens, and the features that leave the encoder, class token included."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .case import Case, indices, values
from .handover import ascending, reduced


def check(case: Case) -> Iterator[str]:
    params = case.params
    dominant, contextual = params["dominant_patches(without class token)"], params["contextual"]
    hidden, attention, keys = case["hidden"], case["attention"], case["key_metric"]
    features = hidden[:, 1:]
    signals = {
        "class_attention": attention.mean(dim=1)[:, 0, 1:],
        "keys": keys[:, 1:],
        "encoder_features": features,
        "class_features": hidden[:, :1],
        "projector": lambda tokens: tokens,
    }
    options = {"keep": 1 + dominant + contextual, "contextual": contextual, "class_token": True}
    reduction = reduced("visionzip", features, signals, **options)
    expected = ascending(case["out_dominant_idx_topk_order"])[:, 1:] - 1
    yield from indices("dominant patches", reduction.keep[:, 1 : 1 + dominant], expected)
    yield from values("tokens", reduction.apply(features), case["out_tokens"])
    if not torch.equal(reduction.apply(features)[:, 0], hidden[:, 0]):
        yield "the class token is not the first one"


CHECKS = {"visionzip": check}
