"""The tokens of a sequence between two blocks, all but their features. Axes: B batch, N tokens now, N0 at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..backbones.layout import Layout
from ..backbones.positions import Positions
from .composition import take_columns
from .gate import log_weight
from .later import Later, read
from .reduction import Reduction


@dataclass(frozen=True)
class State:
    """The tokens of one sequence between two blocks, all but their features.

    Args:
        layout: which of them are of which stream.
        initial: the same at the start of the pass.
        size: (B, N) input tokens that each stands for, summed when it is read (:meth:`sizes`); None while all are 1.
        real: (B, N) False for padding, None when all are real.
        assignment: (B, N0) position of each input token, None when nobody asks.
        drops: whether any input token may have been dropped so far.
        gates: (B, n) by stream, how much each token counts; a stream whose tokens all count in full is left out.
        past_gates: the gates that a stream has had so far, the present one last.
        positions: what travels with the tokens.
        valid: (B, N) False for what only fills up a sample that is shorter than others by a reduction (``real`` is
            False there too), None for nothing.
    """

    layout: Layout
    initial: Layout
    size: Tensor | Later | None = None
    real: Tensor | None = None
    assignment: Tensor | None = None
    drops: bool = False
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    past_gates: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    positions: Positions | None = None
    valid: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether it is one stream of which nothing is known but sizes: no padding, gate, position or place."""
        known = self.real is not None or self.assignment is not None or self.positions is not None
        return not (known or self.gates or self.past_gates) and len(self.layout.streams) == 1

    def sizes(self) -> Tensor | None:
        """(B, N) input tokens that each stands for, None while all are 1."""
        return read(self.size)

    def on(self, device: torch.device) -> State:
        """The same on the device of a block; itself where it is there already."""
        if self._is_on(device):
            return self
        real, assignment, valid = (
            None if side is None else side.to(device) for side in (self.real, self.assignment, self.valid)
        )
        mappings = (self.gates, self.positions or {})
        gates, positions = ({name: side.to(device) for name, side in m.items()} for m in mappings)
        past = {name: tuple(gate.to(device) for gate in gates) for name, gates in self.past_gates.items()}
        return replace(
            self,
            layout=self.layout.on(device),
            initial=self.initial.on(device),
            size=None if self.size is None else self.size.to(device),
            real=real,
            assignment=assignment,
            gates=gates,
            past_gates=past,
            positions=None if self.positions is None else positions,
            valid=valid,
        )

    def _is_on(self, device: torch.device) -> bool:
        """Whether all of it is there; asked in every block."""
        for side in (self.size, self.real, self.assignment, self.valid, self.layout.kinds, self.initial.kinds):
            if side is not None and side.device != device:
                return False
        for mapping in (self.gates, self.positions):
            for held in mapping.values() if mapping else ():
                if held.device != device:
                    return False
        return True

    def with_gates(self, gates: Mapping[str, Tensor]) -> State:
        """The same with gates of some streams in place of theirs."""
        past = {name: (*self.past_gates.get(name, ()), gate) for name, gate in gates.items()}
        return replace(self, gates={**self.gates, **gates}, past_gates={**self.past_gates, **past})

    def real_of(self, stream: str) -> Tensor | None:
        """(B, n) False for padding among the tokens of a stream, None when all are real."""
        return None if self.real is None else take_columns(self.real, self.layout.columns(stream, self.real.device))

    def gate(self) -> Tensor | None:
        """(B, N) how much each token of the sequence counts, None while all count in full."""
        if not self.gates:
            return None
        like = next(iter(self.gates.values()))
        lengths = self.layout.lengths
        parts = [self.gates.get(name, like.new_ones(like.shape[0], n)) for name, n in lengths.items()]
        if self.layout.kinds is None and len(self.layout.segments) == len(lengths):
            return torch.cat(parts, dim=1)
        columns = [self.layout.columns(name, like.device) for name in lengths]
        index = torch.cat([_index(place, like.shape[0], like.device) for place in columns], dim=1)
        return torch.cat(parts, dim=1).gather(1, index.argsort(dim=1))

    def bias(self, like: Tensor, proportional: bool, gated: bool = True) -> Tensor | None:
        """Additive attention bias (B, 1, 1, N): minus infinity at padding, log gate and log size where asked for."""
        return key_bias(like, self.sizes() if proportional else None, self.gate() if gated else None, self.real)

    def valid_after(self, whole: Reduction) -> Tensor | None:
        """:attr:`valid` of the tokens that a reduction of the sequence leaves."""
        if self.valid is None:
            return whole.valid
        left = whole.take(self.valid) | (whole.keep < 0)
        return left if whole.valid is None else left & whole.valid

    def counts(self, stream: str) -> Tensor | None:
        """(B,) tokens of each sample of a stream, or of the sequence by its name; None where all have as many."""
        if self.valid is None:
            return None
        counts: Tensor = take_columns(self.valid, self.layout.columns(stream, self.valid.device)).sum(dim=1)
        return counts

    def moved(self, whole: Reduction) -> Positions | None:
        """The positions of the tokens that a reduction of the sequence leaves: the kept token's."""
        if self.positions is None:
            return None
        batch = whole.keep.shape[0]
        return {name: whole.take(side.expand(batch, *side.shape[1:])) for name, side in self.positions.items()}


def key_bias(like: Tensor, size: Tensor | None, gate: Tensor | None, real: Tensor | None) -> Tensor | None:
    """Additive attention bias (B, 1, 1, N) over keys, in the dtype of ``like``; None where nothing is to be added.

    Args:
        size: (B, N) input tokens that each key stands for: log size is added.
        gate: (B, N) how much each key counts: log gate is added.
        real: (B, N) False for padding: minus infinity.
    """
    bias = None if size is None else size.log()
    if gate is not None:
        bias = log_weight(gate) if bias is None else bias + log_weight(gate)
    if real is not None:
        bias = torch.zeros_like(real, dtype=like.dtype) if bias is None else bias
        bias = bias.masked_fill(~real, float("-inf"))
    return None if bias is None else bias.to(like.dtype)[:, None, None]


def _index(columns: slice | Tensor, batch: int, device: torch.device) -> Tensor:
    if isinstance(columns, slice):
        columns = torch.arange(columns.start, columns.stop, device=device)[None]
    return columns.expand(batch, -1)
