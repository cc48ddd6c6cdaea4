"""A stack with its reducer, and the record of its last forward pass. Axes: B batch, N tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .adapter import BlockView, Ending, Role, Stack
from .reducer import Backbone, Reducer
from .state import State
from .streams import Site

if TYPE_CHECKING:
    from .engine import Run
    from .handle import Attachment


class Bound:
    """A stack with its reducer: what attach makes, and every forward pass reads.

    Attributes:
        roles: of each block.
        sites: by block.
        original, backbone: what the reducer was settled from, so that it can be settled anew for a guide.
        guide: (1, Q, D) or (B, Q, D) text features that the user has set, or None.
        factor: how many times as much as configured is removed now (``handle.scale``).
        pauses: how many ``handle.paused()`` are open.
        last: record of the last pass.
        run: makes the :class:`tokenreduce.engine.Run` of each pass, for measuring; None for the plain one.
    """

    def __init__(
        self,
        stack: Stack,
        views: list[BlockView],
        reducer: Reducer,
        original: Reducer,
        backbone: Backbone,
        sites: Mapping[int, Site],
        ending: Ending,
        trace: bool,
    ) -> None:
        self.stack, self.views, self.reducer, self.ending = stack, views, reducer, ending
        self.original, self.backbone, self.sites = original, backbone, dict(sites)
        self.roles: list[Role] = [stack.role(index) for index in range(len(views))]
        self.trace = trace
        self.track = trace or ending != "none"
        self.guide: Tensor | None = None
        self.factor = 1.0
        self.pauses = 0
        self.handle: Attachment | None = None
        self.last: Record | None = None
        self.run: Callable[[Bound], Run] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pauses": 0}  # whoever paused this one will not resume a copy


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
        self.losses = added_up(losses)
        self.first = {name: n for state in first.values() for name, n in state.lengths.items()}
        self.last = {name: n for state in last.values() for name, n in state.lengths.items()}
        self.gates = {name: gate.detach() for state in last.values() for name, gate in state.gates.items()}
        self.assignment = self.size = None
        if trace:
            self.assignment = side_by_side(list(last.values()))
            self.size = torch.cat([_sizes(state) for state in last.values()], dim=1)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "losses": {}}  # tensors with a history cannot be copied


def added_up(losses: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of several sites or stacks, those of one name summed."""
    total: dict[str, Tensor] = {}
    for terms in losses:
        for name, value in terms.items():
            total[name] = total[name] + value if name in total else value
    return total


def side_by_side(states: list[State]) -> Tensor:
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
