"""What the vision tower has merged or dropped, as a reduction of the tokens that enter the language model.

A tower whose projector works token by token gives every token at its place, those that were merged all with the same
value: so leaving out all but one of them, and what was dropped, is all there is to do.

Axes: U images of equal length that keep equally many tokens, n tokens of each, K of them left.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...backbones.dispatch import moved
from ...core.reduction import Reduction
from ...core.site import Site
from .left import Left
from .units import Unit, equal, places

SITE = Site("handover", 0, 0, 1, 1)

Done = tuple[list[Unit], Tensor, Tensor, Reduction]


def carried(left: Left) -> list[Done]:
    """The reductions of all images, each with its units, their samples (U, 1) and columns (U, n)."""
    encoded = left.prompt.encoded
    assert encoded is not None
    every, order = left.units("image")
    columns, done = left.columns(), list[Done]()
    ends = {unit: moved(encoded.ends(unit.counted[0]), order.device) for unit in every}
    for units in equal(unit for unit in every if ends[unit] is not None):
        for group, side in alike(units, [end_of(ends[unit], unit.length) for unit in units]):
            samples, at = places(group, order)
            done.append((group, samples, columns[samples, at], reduction_of(side)))
    return done


def end_of(ends: Tensor | None, length: int) -> Tensor:
    """(n,) the ends of the image's tokens; of an image that the prompt ends with, the last one is not the image's."""
    assert ends is not None
    return torch.where(ends[:length] < length, ends[:length], -1)


def alike(units: list[Unit], ends: Iterable[Tensor]) -> list[tuple[list[Unit], Tensor]]:
    """Units and ends (U, n) by the number of tokens that are left, those that keep all left out."""
    side = torch.stack(list(ends))
    kept = (side == torch.arange(side.shape[1], device=side.device)).sum(dim=1).tolist()  # one host synchronisation
    found = []
    for count in sorted(set(kept) - {side.shape[1]}):
        index = [place for place, number in enumerate(kept) if number == count]
        found.append(([units[place] for place in index], side[index]))
    return found


def reduction_of(ends: Tensor) -> Reduction:
    """Keeps the tokens that are their own end, as they are; the others are counted where they went."""
    own = ends == torch.arange(ends.shape[1], device=ends.device)
    count = int(own[0].sum())
    order = (~own).int().argsort(dim=1, stable=True)
    keep, source = order[:, :count], order[:, count:]
    end = ends.gather(1, source)
    if bool((end < 0).all()):
        return Reduction(keep, length=ends.shape[1])
    target = torch.where(end >= 0, (own.cumsum(dim=1) - 1).gather(1, end.clamp(min=0)), -1)
    ones = torch.ones(keep.shape, device=ends.device)
    weight = torch.zeros(source.shape, device=ends.device)
    partial = bool((end < 0).any())
    return Reduction(keep, source, target, length=ends.shape[1], keep_weight=ones, weight=weight, partial=partial)
