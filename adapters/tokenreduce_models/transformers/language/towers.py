"""What the vision towers of these models give for the tokens of an image.

Axes: U images of one call of the tower, N patches, n tokens of an image in the prompt, C' width of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import Projected
from tokenreduce.errors import UnsupportedCallError
from tokenreduce.ops import attention_rows, mean_logits, paid_attention, received_attention

from ..clip import Clip
from ..prenorm import PreNormView
from ..siglip import Siglip
from ..towers import Family
from .tiles import Packing

FAMILIES = (*Clip.families, *Siglip.families)


def family_of(tower: nn.Module) -> Family | None:
    """The kind of tower, None for one whose blocks are not known here."""
    return next((family for family in FAMILIES if isinstance(tower, family.tower)), None)


def blocks_of(tower: Any, family: Family) -> list[nn.Module]:
    """The blocks of a tower."""
    return list(getattr(getattr(tower, family.holder), family.blocks))


@dataclass
class Read:
    """One call of a tower: which of its layers the language model is given.

    Args:
        family: kind of tower.
        block: the block whose output is read.
        before: (U, N, C') its input.
        features: (U, N, C') what is read.
        skipped: tokens in front that the language model is not given.
        pool: makes values of tokens of those of patches: (U, N, ...) -> (U, n, ...), or a list with (n, ...) of each
            image; None for one patch each.
    """

    family: Family
    block: nn.Module
    before: Tensor
    features: Tensor
    skipped: int
    pool: Callable[[Tensor], Tensor] | Packing | None = None
    _made: dict[str, Sequence[Tensor] | Tensor] = field(default_factory=dict)

    def signal(self, name: str) -> Sequence[Tensor] | Tensor:
        """(n, ...) one signal of every image."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Sequence[Tensor] | Tensor:
        if name == "class_features":
            classes = self.features[:, : self.family.prefix]
            return classes[self._first()] if isinstance(self.pool, Packing) else classes
        if name == "encoder_features":
            return self._tokens(self.features)
        projected = self._projected()
        scale = PreNormView(self.block, self.family.parts).scale
        if name == "keys":
            return self._tokens(projected.key.mean(dim=1))
        if name == "class_attention":
            return self._tokens(attention_rows(projected.query[:, :, :1], projected.key, None, scale)[:, 0])
        if name == "received_attention":
            patches = projected.query[:, :, self.family.prefix :]
            return self._tokens(received_attention(patches, projected.key, None, scale))
        if name == "paid_attention":
            columns = slice(self.family.prefix, projected.key.shape[2])
            return self._tokens(paid_attention(projected.query, projected.key, columns, None, scale))
        if name == "received_logits":
            patches = projected.query[:, :, self.family.prefix :]
            return self._tokens(mean_logits(projected.key, patches, scale))
        if name == "paid_logits":
            patches = projected.key[:, :, self.family.prefix :]
            return self._tokens(mean_logits(projected.query, patches, scale))
        raise UnsupportedCallError(f"the vision tower gives no {name}")

    def _projected(self) -> Projected:
        with torch.no_grad():
            return PreNormView(self.block, self.family.parts).project(self.before)

    def _first(self) -> list[int]:
        """The first tile of each image, which is the whole of it."""
        assert isinstance(self.pool, Packing)
        return [sum(self.pool.tiles[:i]) for i in range(len(self.pool.tiles))]

    def _tokens(self, side: Tensor) -> Sequence[Tensor] | Tensor:
        side = side[:, self.skipped :]
        return side if self.pool is None else self.pool(side)


@dataclass(frozen=True)
class GridPool:
    """Values of patches (U, N, ...) as means over square cells of them, as a projector pools them."""

    side: int

    def __call__(self, values: Tensor) -> Tensor:
        rows = int(values.shape[1] ** 0.5)
        cell = rows // self.side
        kept = values.reshape(values.shape[0], rows, rows, *values.shape[2:])[:, : cell * self.side, : cell * self.side]
        cells = kept.reshape(values.shape[0], self.side, cell, self.side, cell, *values.shape[2:])
        return cells.mean(dim=(2, 4)).flatten(1, 2)


class Asking:
    """Stands in for a tower in one call: calls it with further keywords.

    Args:
        tower: it.
        given: the keywords.
    """

    def __init__(self, tower: nn.Module, **given: Any) -> None:
        self.tower, self.given = tower, given

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tower(*args, **{**kwargs, **self.given})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tower, name)


class Listener(Asking):
    """Stands in for a tower in one call: asks it for its hidden states, and notes what it gives."""

    output: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.get("output_hidden_states")
        self.output = super().__call__(*args, **{**kwargs, "output_hidden_states": True})
        self.states = tuple(self.output.hidden_states)
        if asked is not None and not isinstance(asked, bool):  # the library selects some, to let the others go
            chosen = {asked} if isinstance(asked, int) else set(asked)
            last = len(self.states)
            keep = {index % last for index in chosen}
            self.output.hidden_states = tuple(x if i in keep else None for i, x in enumerate(self.states))
        elif not asked:
            self.output.hidden_states = None
        return self.output
