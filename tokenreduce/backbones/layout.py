"""Which tokens of a sequence are of which stream. Axes: B batch, N tokens of the sequence, n of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Tokens side by side that are of one stream.

    Args:
        stream: its name.
        length: number of tokens.
        prefix: how many of them, in front, are protected.
    """

    stream: str
    length: int
    prefix: int = 0


class Layout:
    """The tokens of one sequence by stream: segments in order, and where they do not tell, the stream of each token.

    A stream may occur several times (text, image, text). Once tokens of such a stream were removed, or tokens of
    several streams were merged together, it differs between samples which token is of which
    stream: ``kinds`` tells it then.

    Attributes:
        streams: the names of the streams, each once.
        length: tokens of the sequence.
        name: what the sequence is called: its streams, ``"text+image"``.

    Args:
        segments: in sequence order.
        kinds: (B, N) number of the stream of each token, in the order of :attr:`streams`; None where segments tell.
        counts: tokens of each stream where ``kinds`` is given; None where they differ between samples (after a merge
            across streams), so that the sequence can only be reduced as a whole.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        kinds: Tensor | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.segments, self.kinds = tuple(segments), kinds
        self._counts = counts
        if len(self.segments) == 1:  # most of them: made at every site of a plain ViT
            only = self.segments[0]
            self.length, self.name = only.length, only.stream
            self.streams: tuple[str, ...] = (only.stream,)
            return
        self.streams = tuple(dict.fromkeys(segment.stream for segment in self.segments))
        self.length = sum(segment.length for segment in self.segments)
        self.name = "+".join(self.streams)

    @classmethod
    def of(cls, lengths: Mapping[str, int], prefix: Mapping[str, int]) -> Layout:
        """Streams that occur once each, in the order of ``lengths``."""
        return cls([Segment(name, length, prefix.get(name, 0)) for name, length in lengths.items()])

    @property
    def mixed(self) -> bool:
        """Whether tokens of several streams were merged together, so that no stream is there by itself."""
        return self.kinds is not None and self._counts is None

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of each stream; of a mixed sequence, of the whole under its name."""
        if self.mixed:
            return {self.name: self.length}
        if self._counts is not None:
            return dict(self._counts)
        total = dict.fromkeys(self.streams, 0)
        for segment in self.segments:
            total[segment.stream] += segment.length
        return total

    def prefix(self, stream: str) -> int:
        """Protected tokens in front of a stream, or of the sequence by its name."""
        if stream == self.name:
            return self.segments[0].prefix if self.segments else 0
        return next((segment.prefix for segment in self.segments if segment.stream == stream), 0)

    def columns(self, stream: str, device: torch.device | None = None) -> slice | Tensor:
        """Where the tokens of a stream are: a slice where they are side by side, else their positions (B or 1, n)."""
        if stream == self.name:
            return slice(0, self.length)
        if self.kinds is None:
            places = [
                slice(begin, begin + segment.length)
                for begin, segment in zip(self._starts(), self.segments, strict=True)
                if segment.stream == stream
            ]
            if len(places) == 1:
                return places[0]
            parts = [torch.arange(place.start, place.stop, device=device) for place in places]
            return torch.cat(parts)[None]
        other = (self.kinds != self.streams.index(stream)).to(torch.int8)
        return other.argsort(dim=1, stable=True)[:, : self.lengths[stream]]

    def mask(self, stream: str, batch: int, device: torch.device | None = None) -> Tensor:
        """(B, N) bool: which tokens of the sequence are of a stream."""
        return self.all_kinds(batch, device) == self.streams.index(stream)

    def all_kinds(self, batch: int, device: torch.device | None = None) -> Tensor:
        """(B, N) number of the stream of each token."""
        if self.kinds is not None:
            return self.kinds
        numbers = [self.streams.index(segment.stream) for segment in self.segments]
        parts = [
            torch.full((segment.length,), number, device=device)
            for segment, number in zip(self.segments, numbers, strict=True)
        ]
        return torch.cat(parts).expand(batch, -1)

    def on(self, device: torch.device) -> Layout:
        """The same on a device; itself where it is there already."""
        if self.kinds is None or self.kinds.device == device:
            return self
        return Layout(self.segments, self.kinds.to(device), self._counts)

    def _starts(self) -> list[int]:
        starts, begin = [], 0
        for segment in self.segments:
            starts.append(begin)
            begin += segment.length
        return starts
