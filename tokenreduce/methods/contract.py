"""The check of what a reducer says of itself and of what it returns."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.streams import Streams
from ..errors import UnfitReducerError, UnsupportedCallError
from .site_reducer import SiteReducer


def check_reductions(chosen: Mapping[str, Reduction | Gate], streams: Streams, reducer: SiteReducer) -> None:
    """Raise UnsupportedCallError when a reducer hands back what does not fit its streams."""
    if not chosen:
        return
    kind, sequence = type(reducer.reducer).__name__, streams.sequence
    for name, reduction in chosen.items():
        if (name not in streams and name != sequence) or not isinstance(reduction, (Reduction, Gate)):
            known = [*streams, *([] if sequence is None else [sequence])]
            raise UnsupportedCallError(
                f"{kind} must return reductions (or, in training, gates) by stream name ({', '.join(known)}), "
                f"got {name!r}: {type(reduction).__name__}"
            )
        if name == sequence and (isinstance(reduction, Gate) or any(s.gate is not None for s in streams.values())):
            raise UnsupportedCallError(
                f"{kind}: gates are for a stream by name ({', '.join(streams)}) and do not go with a reduction of the "
                f"whole sequence {sequence!r}"
            )
        if isinstance(reduction, Gate):
            shape, expected = tuple(reduction.values.shape), tuple(streams[name].tokens.x.shape[:2])
            if shape != expected:
                raise UnsupportedCallError(f"{kind}: the gate of {name!r} must be {expected}, got {shape}")
            continue
        if reduction.valid is not None and not (
            reducer.ragged or any(stream.tokens.ragged for stream in streams.values())
        ):
            raise UnsupportedCallError(
                f"{kind}: the reduction of {name!r} keeps different numbers of tokens in different samples (valid), "
                f"which {kind} does not say; set ragged = True in the class"
            )
        length = streams.length if name == sequence else streams[name].tokens.count
        if reduction.length != length:
            raise UnsupportedCallError(
                f"{kind}: the reduction of {name!r} is for {reduction.length} tokens, the stream has {length}"
            )


POSITIONS = ("after_attention", "before_block")


def check_position(reducer: SiteReducer) -> None:
    """Raise UnfitReducerError for an unknown position, or one that lacks the signals that the reducer needs."""
    kind = type(reducer.reducer).__name__
    if reducer.position not in POSITIONS:
        raise UnfitReducerError(
            f"{kind}.position must be 'after_attention' or 'before_block', got {reducer.position!r}"
        )
    if reducer.position == "before_block" and reducer.needs:
        raise UnfitReducerError(
            f"{kind} acts before a block (position = 'before_block'), where there are no signals yet, but needs "
            f"{', '.join(sorted(reducer.needs))}; leave 'needs' empty, or act 'after_attention'"
        )
