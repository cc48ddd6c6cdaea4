"""Which token's attention scores the image tokens where the answer is in the prompt: never one that has seen it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.errors import UnsupportedCallError

SCORED = "tokenreduce_scored"
IGNORED = -100


class LabelledForward:
    """The forward of the model that computes the loss: tells the inner model where the answer begins."""

    def __init__(self, outer: nn.Module) -> None:
        self.outer = outer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outer: Any = self.outer
        names = list(inspect.signature(type(outer).forward).parameters)[1:]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        labels, asked = given.get("labels"), given.get("logits_to_keep")
        if labels is not None:
            given[SCORED] = before_labels(labels)
        elif isinstance(asked, int) and asked > 1:
            given[SCORED] = before_last(given, asked - 1)
        return type(outer).forward(outer, **given)


def before_labels(labels: Tensor) -> Tensor:
    """(B,) the token before the first label of labels (B, q), the last one where there is none."""
    counts = labels != IGNORED
    first = counts.int().argmax(dim=1) - 1
    return torch.where(counts.any(dim=1), first.clamp(min=0), labels.shape[1] - 1)


def before_last(given: Mapping[str, Any], tokens: int) -> Tensor | None:
    """(B,) the first column whose logits are asked for, where those of the last ``1 + tokens`` are.

    Assisted decoding puts guesses behind the prompt; what stays must not depend on them.
    """
    ids = given.get("input_ids")
    ids = given.get("inputs_embeds") if ids is None else ids
    if not isinstance(ids, Tensor):
        return None
    return torch.full((ids.shape[0],), max(ids.shape[1] - 1 - tokens, 0), device=ids.device)


def check_scored(module: nn.Module, scored: Tensor | None) -> None:
    """Raise UnsupportedCallError in training without labels, where the last token may be of the answer."""
    if scored is None and module.training and torch.is_grad_enabled():
        raise UnsupportedCallError(
            "image tokens are scored by the prompt's last token, but in training that may be a token of the answer, "
            "which would leak it; pass labels to the model (a token before the first label scores then), choose a "
            "saliency without attention rows, or reduce at the hand-over"
        )
