"""Which tokens are reduced together: the images of a prompt one by one, their tiles, or all those of a sample.

Axes: B batch, p tokens that are left, U units of equal length, n tokens of a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...backbones.dispatch import moved

UNITS = ("image", "sample", "tile")


@dataclass(frozen=True)
class Entry:
    """What entered the first layer.

    Args:
        lengths: tokens of each image of each sample.
        numbers: (B, p) number of the image that each token is of, -1 for anything else.
        tiles: (B, p) number of the tile that each token of an image is of; None where images have none.
        columns: (B, p) column of each token.
        x: (B, q, C) the tokens at their columns; None where nobody asks for them.
    """

    lengths: list[list[int]]
    numbers: Tensor
    tiles: Tensor | None
    columns: Tensor
    x: Tensor | None

    def on(self, device: torch.device) -> Entry:
        """The same on a device."""
        sides = (self.numbers, self.tiles, self.columns, self.x)
        return Entry(self.lengths, *(moved(side, device) for side in sides))


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
        tile: number of the tile within its image; None for all of it.
    """

    sample: int
    images: tuple[int, ...]
    counted: tuple[int, ...]
    begin: int
    length: int
    initial: int
    tile: int | None = None


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


def tiles_of(
    lengths: Sequence[Sequence[int]], numbers: Tensor, tiles: Tensor, initial: tuple[Tensor, Tensor] | None = None
) -> list[Unit]:
    """The tiles of a batch, those without a token left out.

    Args:
        lengths: tokens of each image of each sample.
        numbers: (B, p) number of the image within its sample, -1 for anything else.
        tiles: (B, p) number of the tile within its image.
        initial: both as they entered the first layer; as they are if None.
    """
    found, counted = [], 0
    first_numbers, first_tiles = initial or (numbers, tiles)
    for sample, images in enumerate(lengths):
        begin = 0
        for image in range(len(images)):
            counts = torch.bincount(tiles[sample, numbers[sample] == image]).tolist()
            entered = torch.bincount(first_tiles[sample, first_numbers[sample] == image]).tolist()
            for tile, length in enumerate(counts):
                if length:
                    found.append(Unit(sample, (image,), (counted + image,), begin, length, entered[tile], tile))
                begin += length
        counted += len(images)
    return found


def divide(
    lengths: Sequence[Sequence[int]], numbers: Tensor, tiles: Tensor | None, kind: str, entry: Entry | None = None
) -> tuple[list[Unit], Tensor]:
    """The units of this kind, and (B, p) the places of their tokens, one unit behind the other.

    Args:
        lengths: tokens of each image of each sample.
        numbers: (B, p) number of the image within its sample, -1 for anything else.
        tiles: (B, p) number of the tile within its image; None where images have none.
        kind: of unit.
        entry: what entered the first layer; the same if None.
    """
    if kind == "tile" and tiles is not None:
        first = None if entry is None or entry.tiles is None else (entry.numbers, entry.tiles)
        return tiles_of(lengths, numbers, tiles, first), image_columns(numbers, kind, tiles)
    return units_of(lengths, kind, None if entry is None else entry.lengths), image_columns(numbers, kind)


def equal(units: Iterable[Unit]) -> list[list[Unit]]:
    """Units of equal length, now and at first, which are reduced together: so a reducer never sees padding."""
    buckets: dict[tuple[int, int], list[Unit]] = {}
    for unit in units:
        buckets.setdefault((unit.length, unit.initial), []).append(unit)
    return list(buckets.values())


def image_columns(numbers: Tensor, kind: str, tiles: Tensor | None = None) -> Tensor:
    """(B, p) places of each sample's image tokens in front, by unit or in order, then those of everything else.

    Args:
        numbers: (B, p) number of the image within its sample, -1 for anything else.
        kind: of unit.
        tiles: (B, p) number of the tile within its image.
    """
    other = numbers < 0
    key = other.int() if kind == "sample" else numbers
    if kind == "tile" and tiles is not None:
        key = numbers * (tiles.max() + 1) + tiles
    if kind != "sample":
        key = torch.where(other, torch.iinfo(key.dtype).max, key)
    return key.argsort(dim=1, stable=True)


def places(units: Sequence[Unit], columns: Tensor) -> tuple[Tensor, Tensor]:
    """(U, 1) sample and (U, n) place of each token of units of equal length, in rising order."""
    device, length = columns.device, units[0].length
    samples = torch.tensor([[unit.sample] for unit in units], device=device)
    begins = torch.tensor([[unit.begin] for unit in units], device=device)
    index = begins + torch.arange(length, device=device)
    return samples, columns[samples, index]
