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
from ..ops.attention_rows import attention_rows, mean_logits
from .composition import take_columns
from .reduction import Reduction

SIGNALS = (
    "keys",
    "value_norms",
    "class_attention",
    "readout_attention",
    "text_attention",
    "received_attention",
    "paid_attention",
    "received_logits",
    "paid_logits",
    "text_cosine",
    "encoder_features",
    "class_features",
    "prompt_embeddings",
    "projector",
    "next_readout_attention",
    "rotated_keys",
    "normed_states",
    "columns",
    "image_embeddings",
    "text_rows",
    "text_columns",
    "text_embeddings",
    "text_keys",
    "text_states",
)
TOWER_FEATURES = ("encoder_features", "class_features", "prompt_embeddings", "projector")
"""Signals that only the hand-over to a language model gives."""
GUIDED = ("text_attention", "text_cosine")
"""Signals that any stack gives once text features guide it (``handle.guide``)."""
WHOLE = (
    "class_features",
    "prompt_embeddings",
    "projector",
    "image_embeddings",
    "text_columns",
    "text_embeddings",
    "text_keys",
    "text_states",
)
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
        received_attention: (B, n), attention that each token is paid by all patches, averaged over heads and patches:
            the tokens of the stream that are not protected. Padding pays and is paid nothing, here and in the next
            three.
        paid_attention: (B, n), attention that each token pays the patches, averaged likewise.
        received_logits, paid_logits: (B, n), the same of the scaled products of queries and keys before the softmax.
        text_cosine: (B, n, Q), cosine of each token with each of the Q text features given to ``handle.guide``.
        encoder_features: (B, n, C'), at the hand-over to a language model: what the projector was given.
        class_features: (B, 1, C'), the same of the encoder's class token.
        prompt_embeddings: (B, t, C), at the hand-over: embeddings of the prompt's text, zeros behind shorter ones.
        projector: a function from encoder features (B, k, C') to the language model's space (B, k, C).
        next_readout_attention: (B, n), between the layers of a language model: attention that the token which is read
            would pay in the next layer, averaged over heads.
        rotated_keys: (B, n, G d), there: their keys with positions, of all key heads side by side.
        normed_states: (B, n, C), there: the tokens after the model's last norm.
        columns: (B, n), there: their places in the prompt, padding not counted.
        image_embeddings: (B, N, C), there: all tokens of the same images as they entered the first layer.
        text_rows: (B, n, t, H), there: attention from each text token behind the image, up to the one that is read;
            0 for what fills up shorter texts.
        text_columns: (B, t), there: places of these text tokens in the prompt, -1 for what fills up.
        text_embeddings: (B, t, C), there: these text tokens as they entered the first layer.
        text_keys: (B, t, G d), there: their keys with positions.
        text_states: (B, t, C), there: they after the model's last norm.
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
    def paid_attention(self) -> Tensor:
        return self._read("paid_attention")

    @property
    def received_logits(self) -> Tensor:
        return self._read("received_logits")

    @property
    def paid_logits(self) -> Tensor:
        return self._read("paid_logits")

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
    def next_readout_attention(self) -> Tensor:
        return self._read("next_readout_attention")

    @property
    def rotated_keys(self) -> Tensor:
        return self._read("rotated_keys")

    @property
    def normed_states(self) -> Tensor:
        return self._read("normed_states")

    @property
    def columns(self) -> Tensor:
        return self._read("columns")

    @property
    def image_embeddings(self) -> Tensor:
        return self._read("image_embeddings")

    @property
    def text_rows(self) -> Tensor:
        return self._read("text_rows")

    @property
    def text_columns(self) -> Tensor:
        return self._read("text_columns")

    @property
    def text_embeddings(self) -> Tensor:
        return self._read("text_embeddings")

    @property
    def text_keys(self) -> Tensor:
        return self._read("text_keys")

    @property
    def text_states(self) -> Tensor:
        return self._read("text_states")

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
        mutual: whether it is self-attention, so that the tokens attend to one another.
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
    mutual: bool = False

    def sources(
        self, columns: slice | Tensor, prefix: int = 0, real: Tensor | None = None
    ) -> dict[str, Callable[[], Tensor]]:
        """The signals that it can give for the tokens whose keys are at ``columns`` (see :meth:`Layout.columns`).

        Args:
            prefix: number of protected tokens among them, in front.
            real: (B, n) False for padding among them.
        """
        found: dict[str, Callable[[], Tensor]] = {"keys": partial(self._keys, columns)}
        if self.value is not None:
            found["value_norms"] = partial(self._value_norms, self.value, columns)
        if self.readout is not None:
            found["readout_attention"] = partial(self._readout, columns)
            if self.has_class_token:
                found["class_attention"] = found["readout_attention"]
        if self.text is not None:
            found["text_attention"] = partial(self._text, *self.text, columns)
        if self.mutual:
            patches = (
                columns[:, prefix:] if isinstance(columns, Tensor) else slice(columns.start + prefix, columns.stop)
            )
            counted = None if real is None else real[:, prefix:]
            found["received_attention"] = partial(self._received, columns, patches, counted)
            found["paid_attention"] = partial(self._paid, columns, patches, counted)
            found["received_logits"] = partial(self._logits, self.key, self.query, columns, patches, counted)
            found["paid_logits"] = partial(self._logits, self.query, self.key, columns, patches, counted)
        return found

    def _keys(self, columns: slice | Tensor) -> Tensor:
        if isinstance(columns, slice):
            return self.key[:, :, columns].mean(dim=1)
        return take_columns(self.key.mean(dim=1), columns)

    @staticmethod
    def _value_norms(value: Tensor, columns: slice | Tensor) -> Tensor:
        wide = value if value.dtype == torch.float64 else value.float()
        return take_columns(wide.square().sum(dim=(1, 3)).sqrt(), columns)

    def _received(self, columns: slice | Tensor, patches: slice | Tensor, real: Tensor | None) -> Tensor:
        total, seen = None, 0
        for rows in _chunks(patches):
            attention = self._rows(rows, columns)
            width = attention.shape[1]
            if real is not None:
                attention = attention * real[:, seen : seen + width].unsqueeze(-1)
            seen += width
            paid = attention.sum(dim=1)
            total = paid if total is None else total + paid
        if total is None:  # no patch at all
            return self._keys(columns)[..., 0].float() * 0
        return total / (seen if real is None else real.sum(dim=1, keepdim=True).clamp(min=1))

    def _paid(self, columns: slice | Tensor, patches: slice | Tensor, real: Tensor | None) -> Tensor:
        parts = []
        for rows in _chunks(columns):
            attention = self._rows(rows, patches)
            count: int | Tensor = max(attention.shape[2], 1)
            if real is not None:
                attention, count = attention * real[:, None], real.sum(dim=1, keepdim=True).clamp(min=1)
            parts.append(attention.sum(dim=2) / count)
        return torch.cat(parts, dim=1)

    def _logits(
        self, of: Tensor, others: Tensor, columns: slice | Tensor, patches: slice | Tensor, real: Tensor | None
    ) -> Tensor:
        of, others = _take_rows(of, columns), _take_rows(others, patches)
        return mean_logits(of, others, self.scale, real)

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


def _chunks(rows: slice | Tensor, size: int = 128) -> list[slice] | list[Tensor]:
    """Rows a few at a time."""
    if isinstance(rows, Tensor):
        return [rows[:, begin : begin + size] for begin in range(0, rows.shape[1], size)]
    return [slice(begin, min(begin + size, rows.stop)) for begin in range(rows.start, rows.stop, size)]


def _take_rows(query: Tensor, rows: slice | Tensor) -> Tensor:
    """Rows (B or 1, r) of a query (B, H, N, d)."""
    if isinstance(rows, slice):
        return query[:, :, rows]
    index = rows.expand(query.shape[0], -1)[:, None, :, None]
    return query.gather(2, index.expand(-1, query.shape[1], -1, query.shape[-1]))
