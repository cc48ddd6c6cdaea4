"""What one forward pass through a stack did. Axes: B batch, n tokens of a stream, N0 tokens at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backbones.block import BlockView, Role
from ..core.state import State
from ..core.trace import Trace
from .block_macs import block_macs


@dataclass(frozen=True)
class SiteTokens:
    """Tokens of one stream before and after one site."""

    stack: str
    layer: int
    stream: str
    tokens_in: int
    tokens_out: int


class Record:
    """What one forward pass through a stack did. Tensors are only kept for a trace.

    Attributes:
        sites: tokens of each stream before and after each site.
        initial, tokens: tokens of each stream at the start and at the end.
        between: tokens of each sequence before the first block and after each.
        losses: what the reducer added to the loss, by name, with gradient; a copy has none.
        gates: (B, n) by stream, how much each token counted at the end, without gradient; streams without are left out.
        trace: where each input token went; None where none is kept (``attach(..., trace=True)``).
    """

    def __init__(
        self,
        sites: list[SiteTokens],
        first: Mapping[str, State],
        last: Mapping[str, State],
        between: list[dict[str, int]],
        *,
        trace: bool,
        losses: Sequence[Mapping[str, Tensor]],
        blocks: Sequence[tuple[BlockView, Role]],
        early: bool,
    ) -> None:
        self.sites, self.between = sites, between
        self.losses = sum_by_name(losses)
        self.initial = {name: n for state in first.values() for name, n in state.layout.lengths.items()}
        self.tokens = {name: n for state in last.values() for name, n in state.layout.lengths.items()}
        self.gates = {name: gate.detach() for state in last.values() for name, gate in state.gates.items()}
        self._blocks, self._early = blocks, early
        self.trace: Trace | None = None
        if trace:
            size = torch.cat([_sizes(state) for state in last.values()], dim=1)
            source = concatenate_assignments(list(last.values()))
            self.trace = Trace(source, size, self.initial, self.tokens, _scattered(list(first.values())))

    @property
    def remarks(self) -> list[str]:
        """What a handle prints beside sites and multiply-adds."""
        return []

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of the blocks for one sample, without and with reduction.

        Linear layers and the two attention products; the reducer's own work is not counted
        (:func:`tokenreduce.count_macs` counts that too).
        """
        before = after = 0
        start = self.between[0]
        for index, (view, role) in enumerate(self._blocks):
            later = self.between[index + 1]
            now = later if self._early else self.between[index]  # then attention sees what is left too
            memory = role.memory or role.own  # without a memory nothing is counted for it
            before += block_macs(view, start[role.own], start[role.own], start[memory])
            after += block_macs(view, now[role.own], later[role.own], now[memory])
        return before, after

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "losses": {}}  # tensors with a history cannot be copied


def sum_by_name(losses: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of several sites or stacks, those of one name summed."""
    total: dict[str, Tensor] = {}
    for terms in losses:
        for name, value in terms.items():
            total[name] = total[name] + value if name in total else value
    return total


def concatenate_assignments(states: list[State]) -> Tensor:
    """(B, N0) final position of each input token, sequences counted one after the other; -1 where dropped."""
    parts, shift = [], 0
    for state in states:
        assert state.assignment is not None
        parts.append(torch.where(state.assignment >= 0, state.assignment + shift, -1))
        shift += state.layout.length
    return torch.cat(parts, dim=1)


def _sizes(state: State) -> Tensor:
    """(B, N) how many input tokens each token stands for, padding not counted."""
    if state.size is not None:
        return state.size
    assert state.assignment is not None
    if state.real is not None:
        return state.real.float()
    return torch.ones(state.assignment.shape[0], state.layout.length, device=state.assignment.device)


def _scattered(states: list[State]) -> dict[str, Tensor]:
    """(n,) where the tokens of streams that are not side by side are, sequences counted one after the other."""
    found, shift = {}, 0
    for state in states:
        for name in state.layout.streams:
            columns = state.layout.columns(name, None if state.assignment is None else state.assignment.device)
            if not isinstance(columns, slice):
                found[name] = columns[0] + shift
        shift += state.layout.length
    return found
