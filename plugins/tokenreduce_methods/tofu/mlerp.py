"""Merging that preserves norms. Axes: B batch, N tokens, K kept, R folded, C width."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.methods import Reduction
from tokenreduce.ops import at_least_float

LEAST = 1e-12  # norm of a mean that points nowhere


def mlerp(reduction: Reduction, x: Tensor) -> Reduction:
    """A reduction to means as one to vectors of the same direction, as long as the longest of their members.

    What it takes is a factor for each output token, which is multiplied into the weights: the result is a weighted sum
    like any other, so it composes, restores and is traced as one. A token into which nothing is folded has factor 1.

    Args:
        reduction: with ``mean=True`` and folds.
        x: (B, N, C) the tokens that it is for.
    """
    assert reduction.source is not None and reduction.target is not None
    x = at_least_float(x)
    own, folded = reduction.coefficients(x.dtype)
    assert folded is not None
    into, lengths = reduction.target.clamp(min=0), torch.linalg.vector_norm(x, dim=-1)
    counts = folded > 0  # what is dropped has no part in its direction, nor in its length
    kept = lengths.gather(1, reduction.keep)
    longest = kept.scatter_reduce(1, into, lengths.gather(1, reduction.source) * counts, "amax")
    merged = torch.zeros_like(reduction.keep).scatter_add(1, into, counts.to(into.dtype)) > 0
    mean = torch.linalg.vector_norm(reduction.apply(x), dim=-1)
    factor = torch.where(merged & (mean > LEAST), longest / mean.clamp(min=LEAST), torch.ones_like(mean))
    return Reduction(
        reduction.keep,
        reduction.source,
        reduction.target,
        length=reduction.length,
        keep_weight=own * factor,
        weight=folded * factor.gather(1, into),
        mean=False,
        partial=reduction.partial,
    )
