"""The signals of image tokens at a cut. Axes: B batch, p tokens that are left, P keys, U units, n tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...backbones.causal import Encoded, LanguageModel, Prompt, Seen, last_real, pick
from ...errors import UnsupportedCallError
from .left import Left
from .units import Unit

Sources = dict[str, Callable[[], Any]]


class LayerSignals:
    """What one layer gives for its tokens; every attention row is computed once for all units.

    Args:
        language: whose layer it is.
        seen: what the layer has done.
        left: what its tokens are.
    """

    def __init__(self, language: LanguageModel, seen: Seen, left: Left) -> None:
        self.language, self.seen, self.left = language, seen, left
        self._made: dict[str, Tensor] = {}

    def sources(self, units: Sequence[Unit], samples: Tensor, places: Tensor) -> Sources:
        """The signals of units of equal length at their samples (U, 1) and places (U, n)."""
        return {
            "readout_attention": lambda: self._readout()[samples, places],
            "text_attention": partial(self._text, samples, places),
            "keys": lambda: self._once("keys", lambda: self.language.keys(self.seen))[samples, places],
        }

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _rows(self, rows: Tensor) -> Tensor:
        """(B, r, p): what the rows pay to the tokens of this call."""
        return self.language.rows(self.seen, rows)[:, :, -self.seen.x.shape[1] :]

    def _scored(self) -> Tensor:
        """(B, 1) place of the token whose row is read."""
        left, length = self.left, self.seen.x.shape[1]
        column = left.prompt.scored
        if column is None:
            return last_real(left.real(), left.batch, length, self.seen.x.device)[:, None]
        return (left.columns() == column[:, None]).int().argmax(dim=1, keepdim=True)

    def _readout(self) -> Tensor:
        return self._once("readout", lambda: self._rows(self._scored())[:, 0])

    def _text(self, samples: Tensor, places: Tensor) -> Tensor:
        """(U, n) mean over the text after each unit, up to the token that is read."""
        numbers = self.left.numbers()
        text = self.left.text_tokens() & ((numbers >= 0).cumsum(dim=1) > 0)
        place = torch.arange(numbers.shape[1], device=numbers.device)
        text = text & (place <= self._scored())
        most = int(text.sum(dim=1).max())  # one host synchronisation
        if not most:
            raise UnsupportedCallError("text_attention: no sample has text after its image; use another saliency")
        rows = self._once("rows", lambda: (~text).int().argsort(dim=1, stable=True)[:, :most])
        attention = self._once("attention", lambda: self._rows(rows))
        counts = text.gather(1, rows)[samples[:, 0]] & (rows[samples[:, 0]] > places[:, -1:])
        weight = counts.to(attention.dtype)
        share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
        paid = pick(attention[samples[:, 0]], places, 2)
        return torch.where(counts.unsqueeze(-1), paid * share.unsqueeze(-1), 0).sum(dim=1)


def tower_sources(prompt: Prompt, encoded: Encoded, units: Sequence[Unit], names: frozenset[str]) -> Sources:
    """What the vision tower gives for units of equal length."""

    def of(unit: Unit, name: str, image: int) -> Tensor:
        signal = encoded.signal(name, image)
        if unit.tile is None or prompt.tiles is None or name == "class_features":
            return signal
        return signal[prompt.tiles[unit.sample, prompt.numbers[unit.sample] == unit.images[0]] == unit.tile]

    def read(name: str) -> Tensor:
        parts = [[of(unit, name, image) for image in unit.counted] for unit in units]
        return torch.stack([torch.cat(images) if len(images) > 1 else images[0] for images in parts])

    return {name: partial(read, name) for name in names}


def prompt_text(x: Tensor, left: Left, units: Sequence[Unit]) -> Tensor:
    """(U, t, C) embeddings of the text of each unit's sample, zeros behind the shorter ones."""
    text = left.text_tokens()
    most = max(left.text) if left.prompt.separators is None else int(text.sum(dim=1).max())
    order = (~text).int().argsort(dim=1, stable=True)[:, :most]
    tokens = pick(x, order, 1) * text.gather(1, order).unsqueeze(-1)
    return tokens[torch.tensor([unit.sample for unit in units], device=x.device)]
