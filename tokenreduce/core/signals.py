"""What a reducer may read of a block: keys and rows of attention, computed when asked for.

Axes: B batch, H heads, N tokens of the sequence, n tokens of the stream, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from ..errors import UnsupportedCallError
from ..ops.attention_rows import attention_rows
from .reduction import Reduction

SIGNALS = ("keys", "class_attention", "text_attention")


class Signals:
    """Signals of one stream, each computed when first read, and only if the reducer declared it.

    Attributes:
        keys: (B, n, d), their keys in this block averaged over heads (in its cross-attention for a memory).
        class_attention: (B, n), attention from the token that the head reads, averaged over heads.
        text_attention: (B, n), attention from the text's tokens, averaged over heads and real text tokens; or
            likeness to the text features given to ``handle.guide``.
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
        left = {name: partial(self._left, name, reduction) for name in self._sources}
        return Signals(left, self._needs)

    def _left(self, name: str, reduction: Reduction) -> Tensor:
        return reduction.average(self._read(name))

    @property
    def keys(self) -> Tensor:
        return self._read("keys")

    @property
    def class_attention(self) -> Tensor:
        return self._read("class_attention")

    @property
    def text_attention(self) -> Tensor:
        return self._read("text_attention")


def signal_sources(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    scale: float | None,
    columns: slice,
    readout: int | None,
    text_rows: int,
    text_weight: Tensor | None,
) -> dict[str, Callable[[], Tensor]]:
    """The signals that one attention can give for the tokens whose keys are at ``columns``.

    Args:
        query, key: (B, H, rows, d) and (B, H, N, d); self-attention, or cross-attention to these tokens.
        readout: row of the token that the head reads, or None.
        text_rows: the text's tokens are among the first so many rows; 0 for no text.
        text_weight: (B, text_rows), 1 for rows that count (real text tokens), None for all.
    """
    sources: dict[str, Callable[[], Tensor]] = {"keys": partial(_keys, key, columns)}
    if readout is not None:
        sources["class_attention"] = partial(_class_row, query, key, bias, scale, columns, readout)
    if text_rows:
        sources["text_attention"] = partial(_text_rows, query, key, bias, scale, columns, text_rows, text_weight)
    return sources


def _keys(key: Tensor, columns: slice) -> Tensor:
    return key[:, :, columns].mean(dim=1)


def _class_row(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None, columns: slice, readout: int
) -> Tensor:
    return attention_rows(query[:, :, readout : readout + 1], key, bias, scale)[:, 0, columns]


def _text_rows(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    scale: float | None,
    columns: slice,
    rows: int,
    weight: Tensor | None,
) -> Tensor:
    attention = attention_rows(query[:, :, :rows], key, bias, scale)[:, :, columns]
    if weight is None:
        return attention.mean(dim=1)
    weight = weight.to(attention.dtype)
    total = weight.sum(dim=1, keepdim=True).clamp(min=1)
    return (attention * weight.unsqueeze(-1)).sum(dim=1) / total
