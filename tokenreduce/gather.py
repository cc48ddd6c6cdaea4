"""From a block's projections to the streams that a reducer is given, and the check of what it hands back.

Axes: B batch, H heads, N tokens, C width, d head width, D width of a shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .adapter import Projected, Stack
from .errors import UnsupportedCallError
from .ops.saliency import guided
from .reducer import Reducer
from .reduction import Reduction
from .state import State
from .streams import Signals, Stream, Streams, signal_sources
from .tokens import Tokens


@dataclass
class Seen:
    """One sequence as a block has seen it.

    Attributes:
        x: its tokens.
        state: all else about them.
        projected: the attention whose keys they are: self-attention, or cross-attention for a memory.
        bias: the additive bias of that attention, or None.
    """

    x: Tensor
    state: State
    projected: Projected
    bias: Tensor | None


def make_streams(
    stack: Stack,
    reducer: Reducer,
    own: Seen,
    memory: Seen | None,
    scale: float | None,
    training: bool,
    guide: Tensor | None,
) -> Streams:
    """The streams at a site; signals are closures, computed when read."""
    needs = frozenset(reducer.needs)
    if guide is not None and guide.shape[0] not in (1, own.x.shape[0]):
        raise UnsupportedCallError(
            f"handle.guide has text features for {guide.shape[0]} samples, this is a batch of {own.x.shape[0]}; give "
            "one text (D,) for all, or one per sample"
        )
    text, weight = text_rows(own)

    def stream(seen: Seen, columns: slice, prefix: int, is_image: Tensor | None = None) -> Stream:
        state, x = seen.state, seen.x[:, columns]
        query, key = seen.projected.query, seen.projected.key
        sources = signal_sources(query, key, seen.bias, scale, columns, stack.reader, text, weight)
        if guide is not None:
            sources["text_attention"] = partial(guided, stack.shared_space, x, guide)
        size = None if state.size is None else state.size[:, columns]
        real = None if state.real is None else state.real[:, columns]
        return Stream(Tokens(x, size, real, prefix), Signals(sources, needs), training, is_image)

    parts = {}
    for seen in (own,) if memory is None else (own, memory):
        begin = 0
        for name, length in seen.state.lengths.items():
            parts[name] = stream(seen, slice(begin, begin + length), stack.prefix[name])
            begin += length
    joint: Callable[[], Stream] | None = None
    if len(own.state.lengths) == 2:
        kind = joint_kind(own.x, own.state)
        joint = partial(stream, own, slice(0, own.x.shape[1]), stack.prefix["text"], kind)
    return Streams(parts, joint)


def text_rows(own: Seen) -> tuple[int, Tensor | None]:
    """Among how many first rows the text's tokens are, and (B, rows) which of these count (None: all)."""
    state = own.state
    if state.is_image is None:
        text = state.lengths.get("text", 0)
        return text, None if state.real is None else state.real[:, :text]
    text = min(own.x.shape[1], state.text)  # after joint merges text tokens stand somewhere among the first ones
    is_text = ~state.is_image if state.real is None else state.real & ~state.is_image
    return text, is_text[:, :text]


def joint_kind(x: Tensor, state: State) -> Tensor:
    """(B, N) bool: which tokens of a text-and-image sequence are image tokens."""
    if state.is_image is not None:
        return state.is_image
    position = torch.arange(x.shape[1], device=x.device)
    return (position >= state.lengths["text"]).expand(x.shape[0], -1)


def check_reductions(chosen: Mapping[str, Reduction], streams: Streams, reducer: Reducer) -> None:
    """Raise UnsupportedCallError when a reducer hands back what does not fit its streams."""
    valid = {name: stream.tokens.count for name, stream in streams.items()}
    if streams.has_joint:
        valid["joint"] = sum(valid.values())
    for name, reduction in chosen.items():
        if name not in valid or not isinstance(reduction, Reduction):
            raise UnsupportedCallError(
                f"{type(reducer).__name__} must return reductions by stream name ({', '.join(valid)}), "
                f"got {name!r}: {type(reduction).__name__}"
            )
        if reduction.length != valid[name]:
            raise UnsupportedCallError(
                f"{type(reducer).__name__}: the reduction of {name!r} is for {reduction.length} tokens, "
                f"the stream has {valid[name]}"
            )
