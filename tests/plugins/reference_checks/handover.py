"""A method on the tokens of a case, as the hand-over to a language model gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenreduce.core.signals import Signals
from tokenreduce.core.streams import Stream, Streams
from tokenreduce.core.tokens import Tokens
from tokenreduce.methods import Backbone, Reduction, make
from tokenreduce.testing import site


def reduced(reducer: str, x: Tensor, signals: dict[str, Any] | None = None, **options: Any) -> Reduction:
    """What a reducer does to tokens (B, N, C) with these signals; a projector is one, too."""
    given = signals or {}
    backbone = Backbone("handover", 1, ("image",), frozenset(given), False, "the case", sites=1, width=x.shape[-1])
    active = make({"reducer": reducer, **options}).bind(backbone)
    sources = {name: (lambda value=value: value) for name, value in given.items()}
    stream = Stream(Tokens(x), Signals(sources, frozenset(active.needs)), False, initial=x.shape[1])
    return active.reduce_streams(Streams({"image": stream}, "image"), site()).get("image", stream.tokens.identity())


def mask(reduction: Reduction) -> Tensor:
    """(B, N) 1 for a token that stays."""
    kept = torch.zeros(len(reduction.keep), reduction.length, dtype=torch.uint8)
    return kept.scatter(1, reduction.keep, 1)


def ascending(order: Tensor) -> Tensor:
    """(B, K) indices in the order of the sequence."""
    return order.sort(dim=1).values
