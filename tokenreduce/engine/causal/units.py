"""Which tokens are reduced together: the images of a prompt one by one, or all those of a sample.

Axes: B batch, p tokens that are left, U units of equal length, n tokens of a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UNITS = ("image", "sample")


@dataclass(frozen=True)
class Unit:
    """Image tokens of one sample that a reducer sees by themselves.

    Args:
        sample: which one.
        images: numbers of its images within the sample.
        counted: numbers of its images among all of the call.
        begin: where its tokens begin among the sample's image tokens.
        length: how many there are.
        initial: how many of them entered the first layer.
    """

    sample: int
    images: tuple[int, ...]
    counted: tuple[int, ...]
    begin: int
    length: int
    initial: int


def units_of(lengths: Sequence[Sequence[int]], kind: str, initial: Sequence[Sequence[int]] | None = None) -> list[Unit]:
    """The units of a batch, those without a token left out.

    Args:
        lengths: tokens of each image of each sample.
        kind: of unit.
        initial: the same as they entered the first layer; ``lengths`` if None.
    """
    found, counted = [], 0
    for sample, (images, first) in enumerate(zip(lengths, initial or lengths, strict=True)):
        begin, numbers = 0, range(len(images))
        groups: Iterable[tuple[int, ...]] = [tuple(numbers)] if kind == "sample" else [(i,) for i in numbers]
        for group in groups:
            length = sum(images[i] for i in group)
            if length:
                entered = sum(first[i] for i in group)
                found.append(Unit(sample, group, tuple(counted + i for i in group), begin, length, entered))
            begin += length
        counted += len(images)
    return found


def equal(units: Iterable[Unit]) -> list[list[Unit]]:
    """Units of equal length, now and at first, which are reduced together: so a reducer never sees padding."""
    buckets: dict[tuple[int, int], list[Unit]] = {}
    for unit in units:
        buckets.setdefault((unit.length, unit.initial), []).append(unit)
    return list(buckets.values())


def image_columns(numbers: Tensor, kind: str) -> Tensor:
    """(B, p) places of each sample's image tokens in front, by image or in order, then those of everything else.

    Args:
        numbers: (B, p) number of the image within its sample, -1 for anything else.
        kind: of unit.
    """
    other = numbers < 0
    key = torch.where(other, numbers.shape[1], numbers) if kind == "image" else other.int()
    return key.argsort(dim=1, stable=True)


def places(units: Sequence[Unit], columns: Tensor) -> tuple[Tensor, Tensor]:
    """(U, 1) sample and (U, n) place of each token of units of equal length, in rising order."""
    device, length = columns.device, units[0].length
    samples = torch.tensor([[unit.sample] for unit in units], device=device)
    begins = torch.tensor([[unit.begin] for unit in units], device=device)
    index = begins + torch.arange(length, device=device)
    return samples, columns[samples, index]
