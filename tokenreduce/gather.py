"""From a block's projections to the streams that a reducer is given, and the check of what it hands back.

Axes: B batch, H heads, N tokens, C width, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from .adapter import Projected, Stack
from .errors import UnsupportedCallError
from .reducer import Reducer
from .reduction import Reduction
from .state import State
from .streams import Signals, Stream, Streams, signal_sources
from .tokens import Tokens


def make_streams(
    stack: Stack,
    reducer: Reducer,
    x: Tensor,
    state: State,
    projected: Projected,
    bias: Tensor | None,
    scale: float | None,
    training: bool,
) -> Streams:
    """The streams at a site; signals are closures, computed when read."""
    needs = frozenset(reducer.needs)
    if state.is_image is None:
        text = state.lengths.get("text", 0)
        weight = None if state.real is None else state.real[:, :text]
    else:  # after joint merges text tokens stand somewhere among the first ones
        text = min(x.shape[1], state.text)
        is_text = ~state.is_image if state.real is None else state.real & ~state.is_image
        weight = is_text[:, :text]

    def stream(columns: slice, prefix: int, is_image: Tensor | None = None) -> Stream:
        sources = signal_sources(projected.query, projected.key, bias, scale, columns, stack.reader, text, weight)
        size = None if state.size is None else state.size[:, columns]
        real = None if state.real is None else state.real[:, columns]
        return Stream(Tokens(x[:, columns], size, real, prefix), Signals(sources, needs), training, is_image)

    parts, begin = {}, 0
    for name, length in state.lengths.items():
        parts[name] = stream(slice(begin, begin + length), stack.prefix[name])
        begin += length
    joint: Callable[[], Stream] | None = None
    if len(state.lengths) == 2:
        kind = joint_kind(x, state.lengths) if state.is_image is None else state.is_image
        joint = partial(stream, slice(0, x.shape[1]), stack.prefix["text"], kind)
    return Streams(parts, joint)


def joint_kind(x: Tensor, lengths: Mapping[str, int]) -> Tensor:
    """(B, N) bool: which tokens of a text-then-image sequence are image tokens."""
    position = torch.arange(x.shape[1], device=x.device)
    return (position >= lengths["text"]).expand(x.shape[0], -1)


def check_reductions(chosen: Mapping[str, Reduction], lengths: Mapping[str, int], reducer: Reducer) -> None:
    """Raise UnsupportedCallError when a reducer hands back what does not fit its streams."""
    valid = {**lengths, "joint": sum(lengths.values())}
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
