"""Images of several tiles: which tokens are of which tile, and which separate rows of them.

Axes: T tiles of an image, N patches of a tile, n tokens of an image in the prompt, D width of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Packing:
    """How a library has put the tiles of its images together in one call; it does the same to anything else.

    Args:
        pack: its function.
        args, given: what it was given besides the features.
        tiles: of each image.
        patches: of a tile.
    """

    pack: Callable[..., Any]
    args: Sequence[Any]
    given: dict[str, Any]
    tiles: list[int]
    patches: int
    _where: list[Tensor] = field(default_factory=list)

    def parts(self, like: Tensor) -> list[Tensor]:
        """(n,) of each image: the tile of each token, -1 for a separator. Where tiles are scaled, the nearest one."""
        if not self._where:
            most = max(self.tiles)
            marks = torch.eye(most, device=like.device)
            packed = self._packed([marks[:count, None].expand(-1, self.patches, -1) for count in self.tiles])
            self._where = [torch.where(one.sum(dim=-1) > 0.5, one.argmax(dim=-1), -1) for one in packed]
        return self._where

    def pieces(self, like: Tensor) -> list[list[tuple[int, int]]]:
        """Of each image the grids that its tokens form: the whole picture, then rows of all tiles side by side."""
        side = round(self.patches**0.5)
        found = []
        for part in self.parts(like):
            ends = torch.nonzero(part[self.patches :] < 0).flatten().tolist()
            rest = [(len(ends), ends[0])] if ends and ends[0] else []
            found.append([(side, side), *rest])
        return found

    def __call__(self, values: Tensor) -> list[Tensor]:
        """Values of patches (all tiles, N, ...) as those of each image's tokens (n, ...), separators left out."""
        flat = values.reshape(*values.shape[:2], -1)
        packed = self._packed(list(torch.split(flat, self.tiles)))
        return [
            one[part >= 0].reshape(-1, *values.shape[2:]) for one, part in zip(packed, self.parts(values), strict=True)
        ]

    def _packed(self, features: list[Tensor]) -> list[Tensor]:
        newline = features[0].new_zeros(features[0].shape[-1])
        packed: list[Tensor] = self.pack(features, *self.args, **{**self.given, "image_newline": newline})[0]
        return packed


class PackListener:
    """Stands in for the function that puts tiles together: notes what it is given."""

    def __init__(self, pack: Callable[..., Any]) -> None:
        self.pack = pack
        self.packing: Packing | None = None

    def __call__(self, image_features: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        tiles = [len(one) for one in image_features]
        self.packing = Packing(self.pack, args, kwargs, tiles, image_features[0].shape[1])
        return self.pack(image_features, *args, **kwargs)


def frames(lengths: Sequence[int], count: int, device: torch.device) -> list[Tensor]:
    """(n,) of each video whose ``count`` frames have one separator behind them all: the frame of each token."""
    found = []
    for length in lengths:
        part = torch.arange(count, device=device).repeat_interleave((length - 1) // count)
        found.append(torch.cat([part, part.new_full((length - len(part),), -1)]))
    return found


def runs(columns: Sequence[Sequence[int]]) -> list[list[int]]:
    """Items of one sample, by their columns, that touch each other."""
    found: list[list[int]] = []
    for item, mine in enumerate(columns):
        if found and columns[item - 1][-1] + 1 == mine[0]:
            found[-1].append(item)
        else:
            found.append([item])
    return found


def marked(columns: Sequence[Sequence[int]], ids: Sequence[int]) -> list[list[int]]:
    """Items of one sample up to each that has the same token before it as the last one has: that of a whole image.

    Tiles of an image have tokens of their places before them, and the whole image, which comes last, another.
    """
    before = [ids[mine[0] - 1] if mine[0] else -1 for mine in columns]
    found: list[list[int]] = [[]]
    for item, token in enumerate(before):
        found[-1].append(item)
        if token == before[-1]:
            found.append([])
    return found[:-1]
