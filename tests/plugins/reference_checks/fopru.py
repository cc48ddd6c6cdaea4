"""FoPru against the function of HydraInfer, on attention maps and on the logits it really passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import tokenreduce
from reference_checks.case import Case, indices
from tokenreduce import testing
from tokenreduce.methods import Streams
from tokenreduce.ops import mean_logits


def logit_signals(case: Case) -> dict[str, Tensor]:
    """What the patches pay one another, from their queries and keys, without a map."""
    query, key = case["query"], case["key"]
    return {"received_logits": mean_logits(key, query), "paid_logits": mean_logits(query, key)}


def map_signals(case: Case) -> dict[str, Tensor]:
    """The same from a soft-maxed map."""
    weights = case["attention_patches"].mean(dim=1)
    return {"received_attention": weights.mean(dim=1), "paid_attention": weights.mean(dim=2)}


def kept(case: Case, signals: dict[str, Tensor], **options: Any) -> Tensor:
    """Indices (B, K) that the method keeps."""
    reducer = tokenreduce.registry.default_registry().load("reducer", "fopru")(**options)
    stream = testing.stream(case["tokens"], **signals)
    found = reducer.reduce_streams(Streams({"image": stream}, "image"), testing.site())
    if not found:
        return torch.arange(case["tokens"].shape[1]).expand(len(case["tokens"]), -1)
    keep: Tensor = found["image"].keep
    return keep


def check(case: Case) -> Iterator[str]:
    """Rank and row strategy."""
    scores = "logits" if "query" in case else "softmax"
    signals = logit_signals(case) if scores == "logits" else map_signals(case)
    length = case["tokens"].shape[1]
    if "out_rank_idx" in case:
        keep = int(case.params.get("rank: n_output_tokens", case["out_rank_idx"].shape[1]))
        yield from indices("rank", kept(case, signals, keep=keep, scores=scores), case["out_rank_idx"])
    if "out_row_idx" in case:
        side = round(length**0.5)
        rows = int(case.params.get("row: rows kept", case["out_row_idx"].shape[1] // side))
        got = kept(case, signals, keep=rows * side, scores=scores, strategy="row")
        yield from indices("row", got, case["out_row_idx"])


CHECKS = {"fopru": check}
