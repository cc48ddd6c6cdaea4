"""What a reducer may read of a block: keys and rows of attention, computed when asked for.

Axes: B batch, H heads, N tokens of the sequence, n tokens of the stream, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedCallError
from ..ops.attention_rows import attention_rows
from .composition import take_columns
from .reduction import Reduction

SIGNALS = (
    "keys",
    "value_norms",
    "class_attention",
    "readout_attention",
    "text_attention",
    "received_attention",
    "text_cosine",
    "encoder_features",
    "class_features",
    "prompt_embeddings",
    "projector",
)
TOWER_FEATURES = ("encoder_features", "class_features", "prompt_embeddings", "projector")
"""Signals that only the hand-over to a language model gives."""
GUIDED = ("text_attention", "text_cosine")
"""Signals that any stack gives once text features guide it (``handle.guide``)."""
WHOLE = ("class_features", "prompt_embeddings", "projector")
"""Signals that are not of single tokens: no reduction changes them."""


class Signals:
    """Signals of one stream, each computed when first read, and only if the reducer declared it.

    Attributes:
        keys: (B, n, d), their keys in this block averaged over heads (in its cross-attention for a memory).
        value_norms: (B, n), lengths of their values in the same attention, of all heads side by side.
        class_attention: (B, n), attention from the class token in front of their own sequence, averaged over heads.
        readout_attention: (B, n), attention from the token that the head reads, averaged over heads: in a ViT the class
            token, in ViLT the text's [CLS].
        text_attention: (B, n), attention from the text's tokens, averaged over heads and real text tokens; or
            likeness to the text features given to ``handle.guide``.
        received_attention: (B, n), attention that each token is paid by all patches, averaged over heads and patches.
        text_cosine: (B, n, Q), cosine of each token with each of the Q text features given to ``handle.guide``.
        encoder_features: (B, n, C'), at the hand-over to a language model: what the projector was given.
        class_features: (B, 1, C'), the same of the encoder's class token.
        prompt_embeddings: (B, t, C), at the hand-over: embeddings of the prompt's text, zeros behind shorter ones.
        projector: a function from encoder features (B, k, C') to the language model's space (B, k, C).
    """

    def __init__(self, sources: Mapping[str, Callable[[], Tensor]], needs: frozenset[str]) -> None:
        self._sources, self._needs = sources, needs
        self._cache: dict[str, Tensor] = {}

    def _read(self, name: str) -> Tensor:
        if name not in self._cache:
            if name not in self._needs:
                raise UnsupportedCallError(f"the reducer read signals.{name} but its 'needs' has {set(self._needs)}")
            if name not in self._sources:
                raise UnsupportedCallError(f"this stream has no {name}; it has {', '.join(self._sources)}")
            self._cache[name] = self._sources[name]()
        return self._cache[name]

    def after(self, reduction: Reduction) -> Signals:
        """Signals of the tokens that a reduction leaves: a kept token has its own, a merged one its members' mean."""
        left = {
            name: partial(self._read, name) if name in WHOLE else partial(self._left, name, reduction)
            for name in self._sources
        }
        return Signals(left, self._needs)

    def _left(self, name: str, reduction: Reduction) -> Tensor:
        return reduction.average(self._read(name))

    @property
    def keys(self) -> Tensor:
        return self._read("keys")

    @property
    def value_norms(self) -> Tensor:
        return self._read("value_norms")

    @property
    def class_attention(self) -> Tensor:
        return self._read("class_attention")

    @property
    def readout_attention(self) -> Tensor:
        return self._read("readout_attention")

    @property
    def text_attention(self) -> Tensor:
        return self._read("text_attention")

    @property
    def received_attention(self) -> Tensor:
        return self._read("received_attention")

    @property
    def text_cosine(self) -> Tensor:
        return self._read("text_cosine")

    @property
    def encoder_features(self) -> Tensor:
        return self._read("encoder_features")

    @property
    def class_features(self) -> Tensor:
        return self._read("class_features")

    @property
    def prompt_embeddings(self) -> Tensor:
        return self._read("prompt_embeddings")

    @property
    def projector(self) -> Callable[[Tensor], Tensor]:
        made: Any = self._read("projector")
        function: Callable[[Tensor], Tensor] = made
        return function


@dataclass(frozen=True)
class SeenAttention:
    """One attention as a block has computed it, and whose rows of it are signals.

    Args:
        query, key: (B, H, rows, d) and (B, G, N, d); self-attention, or cross-attention to these tokens.
        bias: (B, 1, 1, N) or None.
        scale: on query-key products, None for 1/sqrt(d).
        readout: row of the token that the head reads, counted from the end if negative, or None.
        has_class_token: whether that token is a class token of the tokens that the keys are of.
        text: (rows that are of the text, (B, rows) which of them count or None for all); None for no text.
        causal: whether a row sees only itself and what is before it; text that sees none of the tokens does not count.
        value: (B, G, N, d), or None where it is not there.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None = None
    scale: float | None = None
    readout: int | None = None
    has_class_token: bool = False
    text: tuple[slice | Tensor, Tensor | None] | None = None
    causal: bool = False
    value: Tensor | None = None

    def sources(self, columns: slice | Tensor) -> dict[str, Callable[[], Tensor]]:
        """The signals that it can give for the tokens whose keys are at ``columns`` (see :meth:`Layout.columns`)."""
        found: dict[str, Callable[[], Tensor]] = {"keys": partial(self._keys, columns)}
        if self.value is not None:
            found["value_norms"] = partial(self._value_norms, self.value, columns)
        if self.readout is not None:
            found["readout_attention"] = partial(self._readout, columns)
            if self.has_class_token:
                found["class_attention"] = found["readout_attention"]
        if self.text is not None:
            found["text_attention"] = partial(self._text, *self.text, columns)
        return found

    def _keys(self, columns: slice | Tensor) -> Tensor:
        if isinstance(columns, slice):
            return self.key[:, :, columns].mean(dim=1)
        return take_columns(self.key.mean(dim=1), columns)

    @staticmethod
    def _value_norms(value: Tensor, columns: slice | Tensor) -> Tensor:
        wide = value if value.dtype == torch.float64 else value.float()
        return take_columns(wide.square().sum(dim=(1, 3)).sqrt(), columns)

    def _rows(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """(B, rows, n)."""
        length = self.query.shape[2]
        if isinstance(rows, slice):
            query, places = self.query[:, :, rows], torch.arange(length, device=self.query.device)[None, rows]
        else:
            query, places = _take_rows(self.query, rows), rows
        attention = attention_rows(query, self.key, self._bias_of(places), self.scale)
        if isinstance(columns, slice):
            return attention[:, :, columns]
        index = columns.expand(attention.shape[0], -1)[:, None].expand(-1, attention.shape[1], -1)
        return attention.gather(2, index)

    def _bias_of(self, places: Tensor) -> Tensor | None:
        """The bias of the rows at places (B or 1, rows): in causal attention they see no later token."""
        if not self.causal:
            return self.bias
        length, total = self.query.shape[2], self.key.shape[2]
        later = torch.arange(total, device=places.device) > (places + total - length).unsqueeze(-1)
        hidden = torch.zeros_like(later, dtype=self.query.dtype).masked_fill(later, float("-inf"))[:, None]
        return hidden if self.bias is None else self.bias + hidden

    def _readout(self, columns: slice | Tensor) -> Tensor:
        assert self.readout is not None
        row = self.readout % self.query.shape[2]
        return self._rows(slice(row, row + 1), columns)[:, 0]

    def _text(self, rows: slice | Tensor, weight: Tensor | None, columns: slice | Tensor) -> Tensor:
        attention = self._rows(rows, columns)
        if self.causal:  # only text that sees any of the tokens counts
            sees = attention.sum(dim=-1) > 0
            weight = sees if weight is None else weight & sees
        if weight is None:
            return attention.mean(dim=1)
        weight = weight.to(attention.dtype)
        total = weight.sum(dim=1, keepdim=True).clamp(min=1)
        return (attention * weight.unsqueeze(-1)).sum(dim=1) / total


def _take_rows(query: Tensor, rows: Tensor) -> Tensor:
    """Rows (B or 1, r) of a query (B, H, N, d)."""
    index = rows.expand(query.shape[0], -1)[:, None, :, None]
    return query.gather(2, index.expand(-1, query.shape[1], -1, query.shape[-1]))
