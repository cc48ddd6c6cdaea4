"""Conditional diversity. Axes: B batch, N tokens, n of them not protected, K kept, Q texts, C width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import Backbone, Selector, Stream, free_real
from tokenreduce.ops import cosines, dpp_greedy

EPSILON = 1e-6  # of the published code: the least relevant token keeps a little


class CDPruner(Selector):
    """Keep tokens that are relevant to the question and differ from one another.

    A token's relevance falls with its cosine to the text, in the space that CLIP's image and text towers share: with
    CLIP's patch tokens the lower one marks the region that is asked for (so published). It is scaled to (0, 1] within
    the image. The tokens that stay are the greedy mode of a determinantal point process with the kernel
    ``relevance_i * cos(x_i, x_j) * relevance_j`` over the features at the site: at the hand-over to a language model,
    what the projector gives. Fewer tokens are always the first of more.

    The text is given by ``handle.guide(text_features)``: features of a CLIP text tower, cut into several where the
    question is longer than it takes. At a hand-over ``space=`` says how encoder features come into its space. Without a
    text, tokens are chosen by diversity alone, and a note says so.

    Source: Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs,
    NeurIPS 2025, arXiv 2506.10967, section 3; greedy choice: Chen et al., NeurIPS 2018. Where this differs: relevance
    is scaled within each image (published: over the batch, so that an image's tokens depend on its neighbours); where
    all are equally relevant, diversity alone decides (published: a division by zero); tokens beyond the rank of the
    kernel follow by relevance.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``). 1/9 where neither is given: 64 of 576.
        remove: what goes, likewise; or ``(r, inflection)``.
        relevance: ``"text"``, ``"none"`` for diversity alone, or None: by the text where there is one.
        relevance_scope: ``"image"``, or ``"batch"`` for the published code's scaling over the whole batch.
    """

    relevance: str | None = None
    relevance_scope: str = "image"

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 1 / 9)
        super().__post_init__()
        if self.relevance not in (None, "text", "none"):
            raise OptionError(f"relevance must be 'text', 'none' or None, got {self.relevance!r}")
        if self.relevance_scope not in ("image", "batch"):
            raise OptionError(f"relevance_scope must be 'image' or 'batch', got {self.relevance_scope!r}")

    @property
    def needs(self) -> Collection[str]:
        return {"text_cosine"} if self.relevance == "text" else frozenset()

    @property
    def notes(self) -> tuple[str, ...]:
        if self.relevance is not None:
            return ()
        return (
            "no text guides it, so tokens are chosen by diversity alone; give one with handle.guide(text_features)",
        )

    def bind(self, backbone: Backbone) -> CDPruner:
        text = self.relevance is None and "text_cosine" in backbone.provides
        bound = replace(self, relevance="text") if text else self
        bound.check_needs(backbone)
        return bound

    def choose(self, stream: Stream, keep: int) -> Tensor:
        tokens, prefix, real = stream.tokens, stream.tokens.prefix, free_real(stream)
        x, relevance = tokens.x[:, prefix:], None
        if self.relevance == "text":
            relevance = relevance_of(stream.signals.text_cosine[:, prefix:], real, self.relevance_scope)
        return order_of(x, relevance, keep, real) + prefix


@torch.no_grad()
def relevance_of(cosine: Tensor, real: Tensor | None = None, scope: str = "image") -> Tensor:
    """(B, n) relevance in (0, 1], 1 where all are alike.

    Args:
        cosine: (B, n, Q) with each text.
        real: (B, n) False for padding.
        scope: what it is scaled over: ``"image"`` or ``"batch"``.
    """
    score = -cosine.mean(dim=-1)
    low = score if real is None else score.masked_fill(~real, float("inf"))
    high = score if real is None else score.masked_fill(~real, float("-inf"))
    least, most = low.amin(dim=1, keepdim=True), high.amax(dim=1, keepdim=True)
    if scope == "batch":
        least, most = least.amin(), most.amax()
    spread = most - least
    scaled = (score - least + EPSILON) / torch.where(spread > 0, spread, 1)
    relevance = torch.where(spread > 0, scaled, 1)
    return relevance if real is None else relevance.masked_fill(~real, 0)


@torch.no_grad()
def order_of(x: Tensor, relevance: Tensor | None, keep: int, real: Tensor | None = None) -> Tensor:
    """(B, K) indices of tokens (B, n, C) in the order of choice."""
    kernel = cosines(x)
    if relevance is not None:
        kernel = relevance[:, :, None] * kernel * relevance[:, None]
    return dpp_greedy(kernel, keep, real)
