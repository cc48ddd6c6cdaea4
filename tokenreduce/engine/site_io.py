"""From a block's projections to the streams that a reducer is given at a site.

Axes: B batch, H heads, N tokens, C width, d head width, D width of a shared space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..backbones.block import BlockView, Projected
from ..backbones.stack import Stack
from ..core.composition import take_columns
from ..core.heads import HeadMasks
from ..core.later import Later
from ..core.seen_attention import SeenAttention
from ..core.signals import Signals
from ..core.state import State
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from ..errors import UnsupportedCallError
from ..methods.site_reducer import SiteReducer
from ..ops.similarity import text_cosines, text_similarity

TextRows = tuple["slice | Tensor", "Tensor | None"]
"""Rows of a sequence that may be of the text; and (B, rows) which of them count, None for all."""


@dataclass
class BlockTokens:
    """One sequence as a block has seen it.

    Attributes:
        x: its tokens.
        state: all else about them.
        projected: the attention whose keys they are: self-attention, or cross-attention for a memory; None before it.
        bias: the additive bias of that attention, or None.
    """

    x: Tensor
    state: State
    projected: Projected | None = None
    bias: Tensor | None = None

    def on(self, device: torch.device) -> BlockTokens:
        """The same on a device; itself where it is there already."""
        if self.x.device == device:
            return self
        seen, bias = self.projected, self.bias
        if seen is not None:
            seen = Projected(seen.query.to(device), seen.key.to(device), seen.value.to(device), seen.extra)
        return BlockTokens(self.x.to(device), self.state.on(device), seen, None if bias is None else bias.to(device))


@dataclass
class SiteReader:
    """Makes the streams of a site; signals are closures, computed when read.

    Args:
        stack: where the site is.
        reducer: what acts there.
        view: of the block.
        training: whether the block is in training mode.
        guide: (1, Q, D) or (B, Q, D) text features, or None.
        space: takes tokens to the space of the text features, None for the stack's own ``shared_space``.
    """

    stack: Stack
    reducer: SiteReducer
    view: BlockView
    training: bool
    guide: Tensor | None
    space: Callable[[Tensor], Tensor] | None = None

    def streams(
        self,
        own: BlockTokens,
        memory: BlockTokens | None,
        losses: dict[str, Tensor] | None,
        heads: HeadMasks | None = None,
    ) -> Streams:
        """All streams of the block's own sequence and of its memory.

        ``losses`` and ``heads`` collect what the reducer adds and masks.

        Raises:
            UnsupportedCallError: text features for another number of samples guide the stack.
        """
        guide = self.guide
        if guide is not None and guide.shape[0] not in (1, own.x.shape[0]):
            raise UnsupportedCallError(
                f"handle.guide has text features for {guide.shape[0]} samples, this is a batch of {own.x.shape[0]}; "
                "give one text (D,) for all, or one per sample"
            )
        parts: dict[str, Callable[[], Stream]] = {}
        for seen in (own,) if memory is None else (own, memory):
            attention = _Attention(self, seen, own)
            for name in () if seen.state.layout.mixed else seen.state.layout.streams:
                parts[name] = partial(self._stream, seen, attention, name)
        layout, whole = own.state.layout, None
        if len(layout.streams) > 1:
            whole = partial(self._stream, own, _Attention(self, own, own), layout.name)
        initial = own.state.initial.lengths
        if memory is not None:
            initial |= memory.state.initial.lengths
        main = self.stack.main_stream
        if main not in parts and not layout.mixed:
            main = next(iter(parts))
        return Streams(parts, main, whole, layout, initial, losses, heads)

    def _stream(self, seen: BlockTokens, attention: _Attention, name: str) -> Stream:
        state, layout = seen.state, seen.state.layout
        only = len(layout.streams) == 1
        columns = slice(0, layout.length) if only else layout.columns(name, seen.x.device)
        whole = name == layout.name and not only
        x, size, real, prefix = seen.x, state.size, state.real, layout.prefix(name)
        if not only:
            x = take_columns(x, columns)
            size = None if size is None else Later(partial(_columns_of, size, columns), size.device)
            real = None if real is None else take_columns(real, columns)
        initial = state.initial.length if only or whole else state.initial.lengths.get(name)
        return Stream(
            Tokens(x, size, real, prefix, ragged=state.valid is not None),
            Signals(partial(self._sources, attention, x, columns, prefix, real), frozenset(self.reducer.needs)),
            self.training,
            layout.all_kinds(x.shape[0], x.device) if whole else None,
            (state.gate() if whole else state.gates.get(name)) if state.gates else None,
            initial,
            past_gates=state.past_gates.get(name, ()),
        )

    def _sources(
        self, attention: _Attention, x: Tensor, columns: slice | Tensor, prefix: int, real: Tensor | None
    ) -> dict[str, Callable[[], Tensor]]:
        """What makes the signals of the tokens x (B, n, C) at some columns."""
        seen = attention.seen()
        sources: dict[str, Callable[[], Tensor]] = {}
        if seen is not None:
            sources = seen.sources(columns, prefix, real)
        if self.guide is not None:
            space = self.space or self.stack.shared_space
            sources["text_attention"] = partial(text_similarity, space, x, self.guide)
            sources["text_cosine"] = partial(text_cosines, space, x, self.guide)
        return sources


class _Attention:
    """The attention that a sequence has been seen in, once a signal of it is read."""

    def __init__(self, reader: SiteReader, of: BlockTokens, own: BlockTokens) -> None:
        self.reader, self.of, self.own = reader, of, own
        self._made: SeenAttention | None = None

    def seen(self) -> SeenAttention | None:
        """It; None before it."""
        projected, stack, view = self.of.projected, self.reader.stack, self.reader.view
        if projected is None or self._made is not None:
            return self._made
        is_own = self.of is self.own
        self._made = SeenAttention(
            projected.query,
            projected.key,
            self.of.bias,
            view.scale,
            stack.readout,
            is_own and len(self.of.state.layout.streams) == 1,
            text_rows(self.own, stack.text_stream),
            is_own and view.causal,
            projected.value,
            is_own,
            self.of.state.layout.length,
        )
        return self._made


def _columns_of(size: Tensor | Later, columns: slice | Tensor) -> Tensor:
    made = size() if isinstance(size, Later) else size
    return take_columns(made, columns)


def text_rows(own: BlockTokens, text: str | None) -> TextRows | None:
    """The rows of a sequence that may be of the text, and (B, rows) which of them count (None: all); None for no text.

    After merges across streams, text tokens are among as many first ones as there were at the start.
    """
    state, layout = own.state, own.state.layout
    if text is None or text not in layout.streams:
        return None
    if not layout.mixed:
        rows = layout.columns(text, own.x.device)
        return rows, None if state.real is None else take_columns(state.real, rows)
    first = state.initial.segments[0]
    among = slice(0, min(layout.length, first.length) if first.stream == text else layout.length)
    counts = layout.mask(text, own.x.shape[0], own.x.device)
    return among, (counts if state.real is None else counts & state.real)[:, among]
