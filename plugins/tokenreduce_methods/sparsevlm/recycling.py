"""Density-peak clustering of dropped tokens. Axes: m tokens, C width."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenreduce.ops import at_least_float


def numbers(dropped: int, share: float, group: int) -> tuple[int, int]:
    """Of so many dropped tokens, how many are recycled and into how many."""
    if not share or not dropped:
        return 0, 0
    recycled = min(int(share * dropped) + 1, dropped)
    return recycled, min(int(recycled / group) + 1, recycled)


@torch.no_grad()
def clusters(x: Tensor, count: int) -> Tensor:
    """(m,) number of the cluster of each token (m, C), the clusters' centres by falling score.

    A token is as dense as its ``count`` nearest tokens (itself one of them) are near; it is a centre where it is dense
    and far from anything denser. The others go to the nearest centre. Of equally dense tokens the earlier one counts as
    denser.
    """
    x = at_least_float(x)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[-1])
    nearest = distance.topk(min(count, len(x)), largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    place = torch.arange(len(x), device=x.device)
    denser = density > density[:, None]
    denser |= (density == density[:, None]) & (place < place[:, None])
    far = distance.max()
    apart = torch.where(denser, distance, far).amin(dim=-1)
    centres = (apart * density).argsort(descending=True, stable=True)[:count]
    cluster = distance[:, centres].argmin(dim=-1)
    cluster[centres] = torch.arange(len(centres), device=x.device)
    return cluster
