"""A stack with its reducer: what every forward pass reads. Axes: B batch, Q texts, D their width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.block import BlockView, Role
from ..backbones.stack import Stack
from ..core.site import Site
from ..errors import UnsupportedCallError
from ..methods.backbone import Backbone
from ..methods.reducer import BaseReducer
from ..methods.site_reducer import SiteReducer
from .equivalence import Proof
from .guard import Guard
from .outputs import output_of
from .readout import Readout
from .record import Record

SUBMODULE = "tokenreduce"
"""Name under which a learnable reducer is a part of the model."""


class BaseBinding:
    """A stack with its reducer: what a handle shows and changes.

    Attributes:
        stack: where it acts.
        active: what acts now.
        original, backbone: what ``active`` was bound from, so that it can be bound again for a guide or a scale.
        sites: by block.
        trace: whether a pass keeps a trace.
        output_name: what the rest of the model expects at the end.
        guide: (1, Q, D) or (B, Q, D) text features that the user has set, or None.
        space: takes tokens to their space, None where the stack does it itself.
        factor: how many times as much as configured is removed now (``handle.scale``).
        pauses: how many ``handle.paused()`` are open.
        last: record of the last pass.
        notes: what a handle says of it beside the remarks of the reducer.
        around: makes the context that each reduction runs in, for measuring; None for none.
    """

    def __init__(
        self,
        stack: Stack,
        active: SiteReducer,
        original: BaseReducer,
        backbone: Backbone,
        sites: Mapping[int, Site],
        output: str,
        trace: bool,
    ) -> None:
        self.stack, self.active = stack, active
        self.original, self.backbone, self.sites = original, backbone, dict(sites)
        self.trace, self.output_name = trace, output
        self.guide: Tensor | None = None
        self.space: Callable[[Tensor], Tensor] | None = None
        self.factor = 1.0
        self.pauses = 0
        self.last: Any = None
        self.notes: list[str] = []
        self.around: Callable[[], AbstractContextManager[None]] | None = None

    @property
    def acting(self) -> SiteReducer:
        """What acts in a pass: :attr:`active`, or what a library has put in its place in the model.

        A learnable reducer is a part of the model, so PEFT (``modules_to_save``) may wrap or copy it.
        """
        standing: Any = self.stack.home._modules.get(SUBMODULE) if isinstance(self.active, nn.Module) else None
        if standing is not None and hasattr(standing, "reduce_streams"):
            acting: SiteReducer = standing
            return acting
        return self.active

    def check_acting(self) -> None:
        """Raise UnsupportedCallError where a learnable reducer that was a part of the model is none any more."""
        if not isinstance(self.active, nn.Module):
            return
        standing = self.stack.home._modules.get(SUBMODULE)
        if standing is self.active or hasattr(standing, "reduce_streams"):
            return
        what = "removed" if standing is None else f"exchanged for a {type(standing).__name__}"
        raise UnsupportedCallError(
            f"{SUBMODULE!r} of {type(self.stack.home).__name__}, the learnable reducer, was {what} after attach; put "
            "it back, or call handle.detach() and attach again"
        )

    def note_idle(self) -> None:
        """Take in at which sites :attr:`active` does nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pauses": 0}  # whoever paused this one will not resume a copy


class Binding(BaseBinding):
    """A stack of blocks with its reducer.

    Attributes:
        views: the blocks' parts.
        roles: of each block.
        guard: looks at the blocks in every pass; ``views`` is its list too.
        output: makes what the rest of the model expects; ``output_name``, if left open, follows what the stack says in
            each pass.
        live, idle: the sites where something is done, and those where the reducer does nothing now.
        track: whether a pass keeps where each token went.
        readout: what the last block computes, None for every token.
    """

    last: Record | None

    def __init__(
        self,
        stack: Stack,
        views: list[BlockView],
        proofs: Sequence[Proof],
        active: SiteReducer,
        original: BaseReducer,
        backbone: Backbone,
        sites: Mapping[int, Site],
        output: str | None,
        trace: bool,
    ) -> None:
        super().__init__(stack, active, original, backbone, sites, stack.output if output is None else output, trace)
        self.views, self._follows = views, output is None
        self.readout: Readout | None = None
        self.roles: list[Role] = [stack.role(index) for index in range(len(views))]
        self.guard = Guard(stack, views, proofs)
        self.live, self.idle = dict(self.sites), dict[int, Site]()
        self.note_idle()
        self._expect(self.output_name)

    def note_idle(self) -> None:
        idle = {} if isinstance(self.active, nn.Module) else self.sites
        self.idle = {index: site for index, site in idle.items() if self.active.idle(site) or index == self._unread}
        self.live = {index: site for index, site in self.sites.items() if index not in self.idle}

    @property
    def _unread(self) -> int | None:
        """The block behind whose attention nobody reads what a reducer leaves."""
        early = self.active.position == "before_block"
        return None if self.readout is None or early else self.readout.index

    def read_alone(self, readout: Readout) -> None:
        """Let the last block compute what the head reads, from the next pass on."""
        self.readout = self.guard.readout = readout
        self.notes.append(readout.said)
        self.note_idle()

    @property
    def blocks(self) -> list[tuple[BlockView, Role]]:
        """Each block's parts and its role."""
        return list(zip(self.views, self.roles, strict=True))

    def look(self) -> None:
        """Take in what has changed in the model since the last pass: parts of the blocks, and what the head reads.

        Raises:
            UnsupportedCallError: a change that cannot act.
        """
        if torch.compiler.is_compiling():
            self.guard.settle()
        self.guard.check()  # compiled code notes what is looked at here, and is compiled again once it differs
        if self._follows and self.stack.output != self.output_name:
            self._expect(self.stack.output)
        if self.readout is not None and not self.pauses:
            self.readout.check(self.output_name)

    def head_masks(self, index: int, masks: Mapping[tuple[str, bool], Tensor]) -> dict[tuple[int, bool], Tensor]:
        """What a reducer has masked before block ``index``, by block of its layer and whether it is of cross-attention.

        Raises:
            UnsupportedCallError: no block of the layer, from this one on, has such an attention.
        """
        level = next((level for level in self.stack.levels if index in level), (index,))
        found = {}
        for (sequence, cross), values in masks.items():
            there = [n for n in level if n >= index and self.roles[n].own == sequence]
            if not there or (cross and all(self.roles[n].memory is None for n in there)):
                kind = "cross-attention" if cross else "self-attention"
                raise UnsupportedCallError(
                    f"no {kind} of {sequence!r} follows in this layer; mask heads of: {', '.join(self.backbone.heads)}"
                )
            found.update({(n, cross): values for n in there})
        return found

    def _expect(self, output: str) -> None:
        self.output_name = output
        self.output = output_of(output, self.active.ragged, self.stack.reads_all)
        self.track = self.trace or self.output.tracks
