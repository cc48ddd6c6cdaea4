"""Where each input token went. Axes: B batch, N0 tokens at the start, N at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor

from ..errors import UnknownNameError


class Trace(Sequence[list[list[int]]]):
    """For each sample and each final token, the input tokens it stands for: ``trace[b][j]`` is a list.

    Attributes:
        source: (B, N0), the final token that each input token ended in, -1 where it was dropped.
        size: (B, N), how many input tokens (padding not counted) each final token stands for.
        first, last: lengths of the streams at the start and at the end, in sequence order.
        places: (B, N0) of each input token the one at whose place it is at the end, -1 where it was dropped: its own,
            that of the token which it was merged into, or of a new token's last member. Of a plain sequence of image
            tokens; None for others, and where nothing was reduced.

    Args:
        columns: (n,) where the tokens of a stream are at the start, for streams that are not side by side.
    """

    def __init__(
        self,
        source: Tensor,
        size: Tensor | None,
        first: Mapping[str, int],
        last: Mapping[str, int],
        columns: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.source, self.first, self.last, self._columns = source, dict(first), dict(last), columns
        self.tokens = sum(last.values())
        self.places: Tensor | None = None
        self.size = size if size is not None else self._members()

    def _members(self) -> Tensor:
        weight = (self.source >= 0).float()
        zeros = torch.zeros(self.source.shape[0], self.tokens, device=self.source.device)
        total: Tensor = zeros.scatter_add(1, self.source.clamp(min=0), weight)
        return total

    def __len__(self) -> int:
        return len(self.source)

    @overload
    def __getitem__(self, index: int) -> list[list[int]]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[list[int]]]: ...
    def __getitem__(self, index: int | slice) -> list[list[int]] | list[list[list[int]]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        members: list[list[int]] = [[] for _ in range(self.tokens)]
        for token, end in enumerate(self.source[index].tolist()):
            if end >= 0:
                members[end].append(token)
        return members

    def stream(self, name: str) -> Tensor:
        """(B, n0): ``source`` for the tokens of one stream, in final positions of the whole sequence."""
        begin = 0
        if self._columns is not None and name in self._columns:
            return self.source[:, self._columns[name]]
        for stream, length in self.first.items():
            if stream == name:
                return self.source[:, begin : begin + length]
            begin += length
        raise UnknownNameError(f"no stream {name!r}; there is {', '.join(self.first)}")
