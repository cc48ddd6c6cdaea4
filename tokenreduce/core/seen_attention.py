"""Attention of one block as it was seen: keys and rows of it, computed when asked for.

Axes: B batch, H heads, N tokens of the sequence, n tokens of the stream, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..ops.attention_rows import attention_rows, mean_logits
from .composition import take_columns


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
        length: N, where it is known on the host.
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
    length: int | None = None

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
            whole = columns.start == 0 and columns.stop == self.length
            return (self.key if whole else self.key[:, :, columns]).mean(dim=1)
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
        query = _take_rows(self.query, rows)
        attention = attention_rows(query, self.key, self._bias_of(rows), self.scale)
        if isinstance(columns, slice):
            return attention[:, :, columns]
        index = columns.expand(attention.shape[0], -1)[:, None].expand(-1, attention.shape[1], -1)
        return attention.gather(2, index)

    def _bias_of(self, rows: slice | Tensor) -> Tensor | None:
        """The bias of the rows at some places (B or 1, rows): in causal attention they see no later token."""
        if not self.causal:
            return self.bias
        length, total = self.query.shape[2], self.key.shape[2]
        places = torch.arange(length, device=self.query.device)[None, rows] if isinstance(rows, slice) else rows
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
