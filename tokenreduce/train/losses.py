"""The terms of a distillation loss, as pure functions. Axes: B batch, N tokens, C width, K classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UnsupportedCallError


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of terms, a scalar in float32."""
    return torch.stack([term.float() for term in terms.values()]).sum()


def logits_term(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of softmax over the last axis, mean over all others; in float32.

    Both are divided by the temperature, and the result is not multiplied by its square: as PuMer trains, where the
    temperature is 1.

    Args:
        student, teacher: logits (B, K) or (B, ..., K), of the same shape.

    Raises:
        UnsupportedCallError: the shapes differ.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531, without its factor.
    """
    if student.shape != teacher.shape:
        raise UnsupportedCallError(
            f"expected logits of one shape, got {tuple(student.shape)} of the student and {tuple(teacher.shape)} of "
            "the teacher; give both models the same head, or read=... that takes what can be compared"
        )
    own, other = ((logits.float() / temperature).flatten(0, -2).log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(own, other, log_target=True, reduction="batchmean")


def hidden_term(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of tokens, mean over the width and weighted over tokens; in float32.

    Args:
        student, teacher: (B, N, C), of the same shape.
        weight: (B, N) how much each token counts; where all are 0 the term is 0.

    Raises:
        UnsupportedCallError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise UnsupportedCallError(
            f"expected tokens of one shape, got {tuple(student.shape)} of the student and {tuple(teacher.shape)} of "
            "the teacher; hidden states can be compared between models of one width and depth on the same inputs"
        )
    apart = (student.float() - teacher.float()).square().mean(-1)
    return (apart * weight).sum() / weight.sum().clamp(min=1e-6)
