"""The tokens of a sequence between two blocks, all but their features. Axes: B batch, N tokens now, N0 at the start."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from .gate import log_weight


class State:
    """The tokens of one sequence between two blocks, all but their features.

    Attributes:
        lengths: tokens of each stream, in sequence order.
        size: (B, N) input tokens that each stands for, None while all are 1.
        real: (B, N) False for padding, None when all are real.
        assignment: (B, N0) position of each input token, None when nobody asks.
        is_image: (B, N) modality, only once text and image were merged together.
        drops: whether any input token may have been dropped so far.
        initial: tokens of each stream at the start of the pass.
        gates: (B, n) by stream, how much each token counts; a stream whose tokens all count in full is left out.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        size: Tensor | None,
        real: Tensor | None,
        assignment: Tensor | None,
        is_image: Tensor | None = None,
        drops: bool = False,
        initial: Mapping[str, int] | None = None,
        gates: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.lengths, self.size, self.real = lengths, size, real
        self.assignment, self.is_image, self.drops = assignment, is_image, drops
        self.initial: Mapping[str, int] = initial or {}
        self.gates: Mapping[str, Tensor] = gates or {}

    def with_gates(self, gates: Mapping[str, Tensor]) -> State:
        """The same with gates of some streams in place of theirs."""
        other = copy.copy(self)
        other.gates = {**self.gates, **gates}
        return other

    def gate(self) -> Tensor | None:
        """(B, N) how much each token of the sequence counts, None while all count in full."""
        if not self.gates:
            return None
        like = next(iter(self.gates.values()))
        parts = [self.gates.get(name, like.new_ones(len(like), n)) for name, n in self.lengths.items()]
        return torch.cat(parts, dim=1)

    def bias(self, like: Tensor, proportional: bool, gated: bool = True) -> Tensor | None:
        """Additive attention bias (B, 1, 1, N): minus infinity at padding, log gate and log size where asked for."""
        bias = None
        if proportional and self.size is not None:
            bias = self.size.log()
        gate = self.gate() if gated else None
        if gate is not None:
            bias = log_weight(gate) if bias is None else bias + log_weight(gate)
        if self.real is not None:
            bias = torch.zeros_like(self.real, dtype=like.dtype) if bias is None else bias
            bias = bias.masked_fill(~self.real, float("-inf"))
        return None if bias is None else bias.to(like.dtype)[:, None, None]
