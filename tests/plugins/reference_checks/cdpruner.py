"""CDPruner: what stays, the range of relevance taken over the batch as published, and the order of choice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from tokenreduce_methods.cdpruner.method import order_of, relevance_of

from .case import Case, indices
from .handover import ascending, mask, reduced


def check(case: Case) -> Iterator[str]:
    features, keep = case["features_projected"], case.params["visual_token_num"]
    images, texts = F.normalize(case["image_embeds"], dim=-1), F.normalize(case["text_embeds"], dim=-1)
    cosine = images @ texts.T
    options = {"keep": keep, "relevance_scope": "batch"}
    reduction = reduced("cdpruner", features, {"text_cosine": cosine}, **options)
    order = order_of(features, relevance_of(cosine, None, "batch"), keep)
    yield from indices("order of choice", order, case["out_order"])
    yield from indices("kept", reduction.keep, ascending(case["out_order"]))
    yield from indices("mask", mask(reduction), case["out_mask"].to(torch.uint8))


CHECKS = {"cdpruner": check}
