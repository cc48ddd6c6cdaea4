"""The check of what a reducer says of itself and of what it returns."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.streams import Streams
from ..errors import UnfitReducerError, UnsupportedCallError
from .reducer import Reducer


def check_reductions(chosen: Mapping[str, Reduction | Gate], streams: Streams, reducer: Reducer) -> None:
    """Raise UnsupportedCallError when a reducer hands back what does not fit its streams."""
    kind = type(reducer).__name__
    valid = {name: stream.tokens.count for name, stream in streams.items()}
    if streams.has_joint:
        valid["joint"] = sum(valid.values())
    for name, reduction in chosen.items():
        if name not in valid or not isinstance(reduction, (Reduction, Gate)):
            raise UnsupportedCallError(
                f"{kind} must return reductions (or, in training, gates) by stream name ({', '.join(valid)}), "
                f"got {name!r}: {type(reduction).__name__}"
            )
        if name == "joint" and (isinstance(reduction, Gate) or any(s.gate is not None for s in streams.values())):
            raise UnsupportedCallError(
                f"{kind}: gates are for a stream by name ({', '.join(streams)}) and do not go with a joint reduction"
            )
        if isinstance(reduction, Gate):
            shape, expected = tuple(reduction.values.shape), tuple(streams[name].tokens.x.shape[:2])
            if shape != expected:
                raise UnsupportedCallError(f"{kind}: the gate of {name!r} must be {expected}, got {shape}")
            continue
        if reduction.length != valid[name]:
            raise UnsupportedCallError(
                f"{kind}: the reduction of {name!r} is for {reduction.length} tokens, the stream has {valid[name]}"
            )


POSITIONS = ("middle", "start")


def check_position(reducer: Reducer) -> None:
    """Raise UnfitReducerError for a place that there is not, or where the signals that it needs are not."""
    kind = type(reducer).__name__
    if reducer.place not in POSITIONS:
        raise UnfitReducerError(f"{kind}.place must be 'middle' or 'start' (of a block), got {reducer.place!r}")
    if reducer.place == "start" and reducer.needs:
        raise UnfitReducerError(
            f"{kind} acts before a block (place = 'start'), where there are no signals yet, but needs "
            f"{', '.join(sorted(reducer.needs))}; leave 'needs' empty, or act in the 'middle'"
        )
