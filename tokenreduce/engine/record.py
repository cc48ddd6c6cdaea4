"""What one forward pass did. Axes: B batch, N tokens, N0 tokens at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.state import State


class Record:
    """What one forward pass did. Tensors are only kept for a trace.

    Attributes:
        counts: layer, stream, tokens in and out of each site.
        first, last: lengths of the streams at the start and at the end.
        between: tokens of each sequence before the first block and after each.
        assignment, size: of all sequences side by side; None without a trace.
        losses: what the reducer added to the loss, by name; a copy has none.
        gates: (B, n) by stream, how much each token counted at the end, without gradient; streams without are left out.
    """

    def __init__(
        self,
        counts: list[tuple[int, str, int, int]],
        first: Mapping[str, State],
        last: Mapping[str, State],
        between: list[dict[str, int]],
        trace: bool,
        losses: Sequence[Mapping[str, Tensor]] = (),
    ) -> None:
        self.counts, self.between = counts, between
        self.losses = sum_by_name(losses)
        self.first = {name: n for state in first.values() for name, n in state.lengths.items()}
        self.last = {name: n for state in last.values() for name, n in state.lengths.items()}
        self.gates = {name: gate.detach() for state in last.values() for name, gate in state.gates.items()}
        self.assignment = self.size = None
        if trace:
            self.assignment = concatenate_assignments(list(last.values()))
            self.size = torch.cat([_sizes(state) for state in last.values()], dim=1)

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
        shift += sum(state.lengths.values())
    return torch.cat(parts, dim=1)


def _sizes(state: State) -> Tensor:
    """(B, N) how many input tokens each token stands for, padding not counted."""
    if state.size is not None:
        return state.size
    assert state.assignment is not None
    if state.real is not None:
        return state.real.float()
    return torch.ones(len(state.assignment), sum(state.lengths.values()), device=state.assignment.device)
