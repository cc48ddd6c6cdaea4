"""A mask on attention heads. Axes: B batch, H heads, h of them computed, M queries, d head width."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._torch import traced


@dataclass
class HeadMasks:
    """The masks of heads at a site.

    Args:
        past: (B, H) of each attention that was masked at sites before this one, in the order of the blocks.
        given: (B, H) by sequence and whether it is of its cross-attention, what a reducer masks at this site.
    """

    past: tuple[Tensor, ...] = ()
    given: dict[tuple[str, bool], Tensor] = field(default_factory=dict)


def live_heads(values: Tensor) -> Tensor | None:
    """(h,) the heads that are not 0 in every sample; None where all are to be computed.

    All are in training, and where the pass is compiled, exported or traced. The host waits for the device once.

    Args:
        values: (B, H).
    """
    if values.requires_grad or traced(values):
        return None
    live = (values != 0).any(dim=0).nonzero().flatten()
    return None if live.shape[0] == values.shape[1] else live


def weigh_heads(context: Tensor, values: Tensor, live: Tensor | None = None) -> Tensor:
    """What the heads give, each times its value: (B, M, H d), heads side by side.

    Args:
        context: (B, M, h d), of the heads that were computed.
        values: (B, H).
        live: (h,) which heads these are, the others are 0; None for all.
    """
    count = values.shape[1]
    if live is not None and not live.shape[0]:
        return context
    width = context.shape[-1] // (count if live is None else live.shape[0])
    factor = (values if live is None else values[:, live]).to(context.dtype)
    heads = torch.unflatten(context, -1, (-1, width)) * factor[:, None, :, None]
    if live is not None:
        heads = heads.new_zeros(*heads.shape[:2], count, width).index_copy(2, live, heads)
    return heads.flatten(2)
