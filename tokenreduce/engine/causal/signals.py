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
from .units import Unit, divide
from .units import places as places_of

Sources = dict[str, Callable[[], Any]]


class LayerSignals:
    """What one layer gives for its tokens; every attention row is computed once for all units.

    Args:
        language: whose layer it is.
        seen: what the layer has done.
        left: what its tokens are.
        unit: what is reduced by itself.
        ahead: what the next layer is to be given, None where nobody asks.
    """

    def __init__(
        self, language: LanguageModel, seen: Seen, left: Left, unit: str = "sample", ahead: Seen | None = None
    ) -> None:
        self.language, self.seen, self.left, self.unit, self.ahead = language, seen, left, unit, ahead
        self._made: dict[str, Tensor] = {}

    def sources(self, units: Sequence[Unit], samples: Tensor, places: Tensor) -> Sources:
        """The signals of units of equal length at their samples (U, 1) and places (U, n)."""
        each = {
            "readout_attention": self._readout,
            "keys": lambda: self.language.keys(self.seen).to(self.seen.x.device),
            "rotated_keys": self._rotated,
            "normed_states": self._normed,
            "columns": self._columns,
        }
        if self.ahead is not None:
            each["next_readout_attention"] = self._next_readout
        text = {
            "text_columns": self._columns,
            "text_keys": self._rotated,
            "text_states": self._normed,
        }
        found: Sources = {name: partial(self._of_image, name, make, samples, places) for name, make in each.items()}
        found |= {name: partial(self._of_text, name, make, samples, places) for name, make in text.items()}
        return found | {
            "text_attention": partial(self._text_attention, samples, places),
            "text_rows": partial(self._text_rows, samples, places),
            "text_embeddings": partial(self._text_embeddings, samples, places),
            "image_embeddings": partial(self._image_embeddings, units),
        }

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _of_image(self, name: str, make: Callable[[], Tensor], samples: Tensor, places: Tensor) -> Tensor:
        return self._once(name, make)[samples, places]

    def _of_text(self, name: str, make: Callable[[], Tensor], samples: Tensor, places: Tensor) -> Tensor:
        """(U, t, ...) of the text behind each unit; 0 for what fills up, -1 among columns."""
        rows, counts = self._text(samples, places)
        side = self._once(name.removeprefix("text_"), make)[samples, rows]
        return torch.where(
            counts.view(*counts.shape, *[1] * (side.ndim - 2)), side, -1 if name == "text_columns" else 0
        )

    def _rows(self, seen: Seen, rows: Tensor) -> Tensor:
        """(B, H, r, p): what the rows pay to the tokens of this call."""
        return self.language.head_rows(seen, rows)[..., -seen.x.shape[1] :].to(seen.x.device)

    def _scored(self) -> Tensor:
        """(B, 1) place of the token whose row is read."""
        left, length = self.left, self.seen.x.shape[1]
        column = left.prompt.scored
        if column is None:
            return last_real(left.real(), left.batch, length, self.seen.x.device)[:, None]
        return (left.columns() == column[:, None]).int().argmax(dim=1, keepdim=True)

    def _readout(self) -> Tensor:
        return self._rows(self.seen, self._scored()).mean(dim=1)[:, 0]

    def _next_readout(self) -> Tensor:
        assert self.ahead is not None
        return self._rows(self.ahead, self._scored()).mean(dim=1)[:, 0]

    def _rotated(self) -> Tensor:
        """(B, p, G d)."""
        return self.language.rotated_keys(self.seen).transpose(1, 2).flatten(2).to(self.seen.x.device)

    def _normed(self) -> Tensor:
        assert self.seen.out is not None
        return self.language.normed(self.seen.out).to(self.seen.x.device)

    def _columns(self) -> Tensor:
        """(B, p) places in the prompt, padding not counted."""
        columns, real = self.left.columns(), self.left.prompt.real
        return columns if real is None else pick(real.cumsum(dim=1) - 1, columns, 1)

    def _text(self, samples: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(U, t) places of the text behind each unit, up to the token that is read, and which of them count."""
        rows = self._once("rows", self._text_rows_of_all)
        text, mine = self._made["text"], rows[samples[:, 0]]
        return mine, text.gather(1, rows)[samples[:, 0]] & (mine > places[:, -1:])

    def _text_rows_of_all(self) -> Tensor:
        """(B, t) places of the text behind the first image of each sample, and some others behind shorter ones."""
        numbers = self.left.numbers()
        text = self.left.text_tokens() & ((numbers >= 0).cumsum(dim=1) > 0)
        text = text & (torch.arange(numbers.shape[1], device=numbers.device) <= self._scored())
        most = int(text.sum(dim=1).max())  # one host synchronisation
        if not most:
            raise UnsupportedCallError(
                "text_attention and the like: no sample has text after its image; use another saliency"
            )
        self._made["text"] = text
        return (~text).int().argsort(dim=1, stable=True)[:, :most]

    def _paid(self, heads: bool, samples: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """What text pays to each unit's tokens, (U, H, t, n) or the heads' mean (U, t, n), and which text counts."""
        counts, rows = self._text(samples, places)[1], self._made["rows"]
        if heads:
            paid = self._once("heads", lambda: self._rows(self.seen, rows))
        else:
            paid = self._once("attention", lambda: self._rows(self.seen, rows).mean(dim=1))
        paid = paid[samples[:, 0]]
        index = places.view(len(places), *[1] * (paid.ndim - 2), -1).expand(*paid.shape[:-1], -1)
        return paid.gather(-1, index), counts

    def _text_attention(self, samples: Tensor, places: Tensor) -> Tensor:
        """(U, n) mean over the text after each unit."""
        paid, counts = self._paid(False, samples, places)
        weight = counts.to(paid.dtype)
        share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(counts.unsqueeze(-1), paid * share.unsqueeze(-1), 0).sum(dim=1)

    def _text_rows(self, samples: Tensor, places: Tensor) -> Tensor:
        """(U, n, t, H)."""
        paid, counts = self._paid(True, samples, places)
        return torch.where(counts[:, None, :, None], paid, 0).permute(0, 3, 2, 1)

    def _text_embeddings(self, samples: Tensor, places: Tensor) -> Tensor:
        """(U, t, C) the text behind each unit as it entered the first layer."""
        rows, counts = self._text(samples, places)
        entry = self.left.entry
        assert entry is not None and entry.x is not None
        return torch.where(counts.unsqueeze(-1), entry.x[samples, self.left.columns()[samples, rows]], 0)

    def _image_embeddings(self, units: Sequence[Unit]) -> Tensor:
        """(U, N, C) all tokens of each unit as they entered the first layer."""
        entry = self.left.entry
        assert entry is not None and entry.x is not None
        every, order = divide(entry.lengths, entry.numbers, entry.tiles, self.unit)
        first = {(unit.sample, unit.images, unit.tile): unit for unit in every}
        mine = [first[unit.sample, unit.images, unit.tile] for unit in units]
        samples, at = places_of(mine, order)
        return entry.x[samples, entry.columns[samples, at]]


def tower_sources(prompt: Prompt, encoded: Encoded, units: Sequence[Unit], names: frozenset[str]) -> Sources:
    """What the vision tower gives for units of equal length."""

    def of(unit: Unit, name: str, image: int) -> Tensor:
        signal = encoded.signal(name, image).to(prompt.numbers.device)
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
