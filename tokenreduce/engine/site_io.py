"""From a block's projections to the streams that a reducer is given at a site.

Axes: B batch, H heads, N tokens, C width, d head width, D width of a shared space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..backbones.block import Projected
from ..backbones.stack import Stack
from ..core.signals import Signals, signal_sources
from ..core.state import State
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from ..errors import UnsupportedCallError
from ..methods.reducer import Reducer
from ..ops.similarity import text_similarity


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


def make_streams(
    stack: Stack,
    reducer: Reducer,
    own: BlockTokens,
    memory: BlockTokens | None,
    scale: float | None,
    training: bool,
    guide: Tensor | None,
    losses: dict[str, Tensor] | None = None,
) -> Streams:
    """The streams at a site; signals are closures, computed when read. ``losses`` collects what the reducer adds."""
    needs = frozenset(reducer.needs)
    if guide is not None and guide.shape[0] not in (1, own.x.shape[0]):
        raise UnsupportedCallError(
            f"handle.guide has text features for {guide.shape[0]} samples, this is a batch of {own.x.shape[0]}; give "
            "one text (D,) for all, or one per sample"
        )
    text, weight = text_rows(own)

    def stream(
        seen: BlockTokens,
        columns: slice,
        prefix: int,
        gate: Tensor | None,
        initial: int | None,
        is_image: Tensor | None = None,
    ) -> Stream:
        state, x = seen.state, seen.x[:, columns]
        sources: dict[str, Callable[[], Tensor]] = {}
        if seen.projected is not None:
            query, key = seen.projected.query, seen.projected.key
            sources = signal_sources(query, key, seen.bias, scale, columns, stack.readout, text, weight)
        if guide is not None:
            sources["text_attention"] = partial(text_similarity, stack.shared_space, x, guide)
        size = None if state.size is None else state.size[:, columns]
        real = None if state.real is None else state.real[:, columns]
        return Stream(Tokens(x, size, real, prefix), Signals(sources, needs), training, is_image, gate, initial)

    parts = {}
    for seen in (own,) if memory is None else (own, memory):
        begin, state = 0, seen.state
        for name, length in state.lengths.items():
            columns, gate, initial = slice(begin, begin + length), state.gates.get(name), state.initial.get(name)
            parts[name] = stream(seen, columns, stack.prefix[name], gate, initial)
            begin += length
    joint: Callable[[], Stream] | None = None
    if len(own.state.lengths) == 2:
        kind, whole, initial = image_mask(own.x, own.state), own.state.gate(), sum(own.state.initial.values())
        joint = partial(stream, own, slice(0, own.x.shape[1]), stack.prefix["text"], whole, initial, kind)
    return Streams(parts, joint, losses)


def text_rows(own: BlockTokens) -> tuple[int, Tensor | None]:
    """Among how many first rows the text's tokens are, and (B, rows) which of these count (None: all)."""
    state = own.state
    if state.is_image is None:
        text = state.lengths.get("text", 0)
        return text, None if state.real is None else state.real[:, :text]
    text = min(
        own.x.shape[1], state.initial["text"]
    )  # after joint merges text tokens stand somewhere among the first ones
    is_text = ~state.is_image if state.real is None else state.real & ~state.is_image
    return text, is_text[:, :text]


def image_mask(x: Tensor, state: State) -> Tensor:
    """(B, N) bool: which tokens of a text-and-image sequence are image tokens."""
    if state.is_image is not None:
        return state.is_image
    position = torch.arange(x.shape[1], device=x.device)
    return (position >= state.lengths["text"]).expand(x.shape[0], -1)
