"""Which tokens the pivots choose. Axes: B batch, N image tokens, t text tokens, P pivots, D, C widths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenreduce.ops import at_least_float

ORDERS = ("norm", "set")


@dataclass(frozen=True)
class Side:
    """Tokens of the image, or of the text behind it.

    Args:
        keys: (B, n, D), positions included, all heads side by side.
        states: (B, n, C) after the last norm.
        real: (B, n) False for what only fills up, None for nothing.
        columns: (B, n) places in the prompt; only for the published order.
    """

    keys: Tensor
    states: Tensor
    real: Tensor | None = None
    columns: Tensor | None = None

    def longest(self, count: int) -> tuple[Tensor, Tensor]:
        """(B, P) the tokens with the longest keys, longest first, and whether they are real."""
        norm = at_least_float(self.keys).abs().sum(dim=-1)
        real = torch.ones_like(norm, dtype=torch.bool) if self.real is None else self.real
        index = norm.masked_fill(~real, -1).argsort(dim=1, descending=True, stable=True)[:, :count]
        return index, real.gather(1, index)


@torch.no_grad()
def selected(image: Side, text: Side, keep: int, pivots: tuple[int, int], order: str = "norm") -> Tensor:
    """(B, N) which image tokens stay: the image pivots, and what each pivot chooses in turn.

    Args:
        image, text: the tokens.
        keep: how many image tokens stay.
        pivots: how many of each are pivots.
        order: in which they choose.
    """
    mine, own = image.longest(min(pivots[0], keep))
    words, told = text.longest(pivots[1])
    index, valid = torch.cat([mine, words], dim=1), torch.cat([own, told], dim=1)
    states = torch.cat([at(image.states, mine), at(text.states, words)], dim=1)
    free = torch.ones_like(image.keys[..., 0], dtype=torch.bool) if image.real is None else image.real.clone()
    chosen = torch.zeros_like(free).scatter(1, mine, own)
    if order == "set":
        assert image.columns is not None and text.columns is not None
        places = torch.cat([image.columns.gather(1, mine), text.columns.gather(1, words)], dim=1)
        turn = set_order(places, valid)
        states, valid = at(states, turn), valid.gather(1, turn)
    number = valid.sum(dim=1, keepdim=True)
    rest = (keep - chosen.sum(dim=1, keepdim=True)).clamp(min=0)
    each, more = rest // number.clamp(min=1), rest % number.clamp(min=1)
    quota = (each + (valid.cumsum(dim=1) - 1 < more)) * valid
    tokens, states = (F.normalize(at_least_float(side), dim=-1) for side in (image.states, states))
    cosine = states @ tokens.transpose(1, 2)  # (B, P, N)
    place = torch.arange(free.shape[1], device=free.device)
    for pivot in range(index.shape[1]):
        open_ = free & ~chosen
        lowest = cosine[:, pivot].masked_fill(~open_, float("inf")).argsort(dim=1, stable=True)
        taken = torch.zeros_like(chosen).scatter(1, lowest, place < quota[:, pivot : pivot + 1])
        chosen = chosen | (taken & open_)
    return chosen


def at(side: Tensor, index: Tensor) -> Tensor:
    """(B, P, C) of a side (B, n, C)."""
    return side.gather(1, index.unsqueeze(-1).expand(-1, -1, side.shape[-1]))


def set_order(places: Tensor, valid: Tensor) -> Tensor:
    """(B, P) the turns in which CPython iterates over a set of places (B, P); those that are not valid come last."""
    turns = []
    for row, real in zip(places.tolist(), valid.tolist(), strict=True):
        there, behind = [i for i, one in enumerate(real) if one], [i for i, one in enumerate(real) if not one]
        taken = [row[i] for i in there]
        turns.append([*(there[taken.index(place)] for place in set(taken)), *behind])
    return torch.tensor(turns, device=places.device).view(places.shape)
