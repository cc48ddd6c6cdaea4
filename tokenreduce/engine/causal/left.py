"""What is left of the tokens of one call. Axes: B batch, q columns of the call, p tokens that are left, C width."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...backbones.causal import Prompt, pick
from ...backbones.dispatch import moved
from ...core.columns import kept_columns
from ...core.reduction import Reduction, compose_assignments, wide
from .units import Entry, Unit, divide


class Left:
    """What is left of the tokens of one call; every cut changes it.

    Attributes:
        lengths: tokens of each image of each sample now.
        rows: (B, p) column of each token that is left, -1 for padding in front; None while all are.
        ragged: whether there is padding among them.
        full: (B, q, C) the last value of every token, once there is a cut.
        size: (B, q) tokens that each stands for, None while all are 1.
        trailing: columns at the end that are text, and real, in every sample.
        added: (B, q, C) each, what is added to tokens between layers: it follows them.
        ends: (B, q) the column in which each token ended, -1 where it was dropped; None where nobody asks.
        entry: what entered the first layer, once it has.
    """

    entry: Entry | None = None

    def __init__(self, prompt: Prompt, trace: bool) -> None:
        self.prompt = prompt
        self.batch, self.count = prompt.numbers.shape
        self.lengths = [list(images) for images in prompt.lengths]
        self.rows: Tensor | None = None
        self.ragged = False
        self.full: Tensor | None = None
        self.size: Tensor | None = None
        self.added = list(prompt.added)
        device = prompt.numbers.device
        self.ends = torch.arange(self.count, device=device).expand(self.batch, -1) if trace else None
        images = [sum(one) for one in self.lengths]
        real = [self.count] * self.batch if prompt.real is None else prompt.real.sum(dim=1).tolist()
        self.text = [n - m for n, m in zip(real, images, strict=True)]
        self.trailing = trailing(prompt)

    def follow_to(self, device: torch.device) -> None:
        """Move to the device of the tokens, where layers run on several."""
        if self.prompt.numbers.device == device:
            return
        self.prompt = self.prompt.on(device)
        self.rows, self.full, self.size, self.ends = (
            moved(side, device) for side in (self.rows, self.full, self.size, self.ends)
        )
        self.added = [side.to(device) for side in self.added]
        if self.entry is not None:
            self.entry = self.entry.on(device)

    def enter(self, x: Tensor | None) -> None:
        """Note what enters the first layer, tokens (B, p, C) included if given."""
        lengths = [list(images) for images in self.lengths]
        columns, whole = self.columns().clamp(min=0), None if x is None else self.spread(x)
        self.entry = Entry(lengths, self.numbers(), self.tiles(), columns, whole)

    @property
    def tokens(self) -> list[int]:
        """Tokens of each sample now, padding not counted."""
        return [text + sum(images) for text, images in zip(self.text, self.lengths, strict=True)]

    def numbers(self) -> Tensor:
        """(B, p) number of the image that each token is of, -1 for anything else."""
        if self.rows is None:
            return self.prompt.numbers
        return torch.where(self.rows >= 0, pick(self.prompt.numbers, self.rows, 1), -1)

    def text_tokens(self) -> Tensor:
        """(B, p) True for the text of the prompt: of no image, no separator, no padding."""
        text = (self.numbers() < 0) & self.real()
        separators = self.prompt.separators
        if separators is None:
            return text
        return text & ~(separators if self.rows is None else pick(separators, self.rows, 1))

    def tiles(self) -> Tensor | None:
        """(B, p) number of the tile that each token of an image is of; None where images have none."""
        tiles = self.prompt.tiles
        return tiles if tiles is None or self.rows is None else pick(tiles, self.rows, 1)

    def units(self, kind: str) -> tuple[list[Unit], Tensor]:
        """The units of this kind, and (B, p) the places of their tokens, one unit behind the other."""
        return divide(self.lengths, self.numbers(), self.tiles(), kind, self.entry)

    def columns(self) -> Tensor:
        """(B, p) column of each token."""
        if self.rows is not None:
            return self.rows
        return torch.arange(self.count, device=self.prompt.numbers.device).expand(self.batch, -1)

    def real(self) -> Tensor:
        """(B, p) False for padding."""
        if self.rows is not None:
            return self.rows >= 0
        given = self.prompt.real
        return torch.ones_like(self.prompt.numbers, dtype=torch.bool) if given is None else given

    def grid(self, unit: Unit) -> tuple[int, int] | None:
        """Rows and columns of the tokens of a unit, frames of a video one below the other; None for no grid.

        A tile is taken to be square if its number of tokens is one.
        """
        if unit.tile is not None:
            side = math.isqrt(unit.length)
            return (side, side) if side * side == unit.length == unit.initial else None
        if len(unit.images) > 1 or not self.prompt.grids:
            return None
        sides = self.prompt.grids[unit.sample][unit.images[0]]
        if sides is None or math.prod(sides) != unit.length:  # it has been reduced
            return None
        return math.prod(sides[:-1]), sides[-1]

    def spread(self, x: Tensor) -> Tensor:
        """Tokens (B, p, C) at their columns (B, q, C); dropped ones have their last value."""
        return spread(x, self.rows, self.full)

    def take(self, x: Tensor, done: list[tuple[list[Unit], Tensor, Tensor, Reduction]], ordered: bool) -> Tensor:
        """Apply the reductions of all units: the tokens (B, p', C) that are left after a cut.

        Args:
            x: (B, p, C) the tokens before it.
            done: units of equal length, their samples (U, 1), their columns (U, n), and what is done to them.
            ordered: whether a new token stands where the last of its members did; otherwise behind all others.
        """
        full = self.spread(x)
        alive = self._alive()
        size = self.size
        for units, samples, columns, reduction in done:
            kept = kept_columns(columns, reduction, ordered)
            tokens = full[samples, columns]
            if size is None and reduction.source is not None:
                size = torch.ones(self.batch, self.count, dtype=wide(x.dtype), device=x.device)
            at, left = (samples.expand_as(kept), kept), reduction.valid
            if left is not None:  # of units that keep fewer, only what they keep
                at = at[0][left], at[1][left]
            if size is not None:
                sizes = reduction.add_up(size[samples, columns]).clamp(min=1)  # a new token without members is one
                size = size.index_put(at, sizes if left is None else sizes[left])
            made = reduction.apply(tokens)
            full = full.index_put(at, made if left is None else made[left])
            for i, side in enumerate(self.added):
                made = reduction.apply(side[samples, columns])
                self.added[i] = side.index_put(at, made if left is None else made[left])
            alive[samples, columns] = False
            alive[at] = True
            self._follow(units, samples, columns, kept, reduction)
        self.full, self.size = full, size
        longest = max(self.tokens)
        self.ragged = min(self.tokens) < longest
        order = alive.int().argsort(dim=1, stable=True)[:, -longest:]
        self.rows = torch.where(alive.gather(1, order), order, -1)
        return pick(full, self.rows, 1)

    def _alive(self) -> Tensor:
        """(B, q) which columns are left."""
        real = self.real()
        if self.rows is None:
            return real.clone()
        columns = torch.where(real, self.rows, self.count)  # padding goes to a column that is cut off again
        return real.new_zeros(self.batch, self.count + 1).scatter(1, columns, real)[:, :-1].clone()

    def _follow(self, units: list[Unit], samples: Tensor, columns: Tensor, kept: Tensor, reduction: Reduction) -> None:
        left = reduction.counts().tolist() if reduction.valid is not None else [reduction.count] * len(units)
        owners: Tensor | None = None
        for place, unit in enumerate(units):
            if unit.tile is not None:
                self.lengths[unit.sample][unit.images[0]] += left[place] - unit.length
                continue
            if len(unit.images) == 1:
                self.lengths[unit.sample][unit.images[0]] = left[place]
                continue
            owners = self.prompt.numbers[samples, kept] if owners is None else owners
            mine = owners[place] if reduction.valid is None else owners[place][reduction.valid[place]]
            counts = torch.bincount(mine, minlength=max(unit.images) + 1).tolist()
            for image in unit.images:
                self.lengths[unit.sample][image] = counts[image]
        if self.ends is not None:
            moves = torch.arange(self.count, device=kept.device).repeat(self.batch, 1)
            end = reduction.assignment()
            moves[samples, columns] = torch.where(end >= 0, kept.gather(1, end.clamp(min=0)), -1)
            self.ends = compose_assignments(self.ends, moves)


def spread(x: Tensor, rows: Tensor | None, full: Tensor | None) -> Tensor:
    """Tokens (B, p, C) at their columns ``rows`` of ``full`` (B, q, C), whose other columns stay."""
    if rows is None or full is None:
        return x
    rows, full = rows.to(x.device), full.to(x.device)
    beside = torch.where(rows >= 0, rows, full.shape[1])  # padding goes to a column that is cut off again
    wider = torch.cat([full, full[:, :1]], dim=1)
    return wider.scatter(1, beside[..., None].expand(-1, -1, x.shape[-1]), x)[:, :-1]


def trailing(prompt: Prompt) -> int:
    """How many columns at the end are text, and real, in every sample."""
    text = prompt.numbers < 0
    if prompt.real is not None:
        text = text & prompt.real
    return int(text.all(dim=0).flip(0).int().cumprod(dim=0).sum())
