"""A stack with its reducer: what every forward pass reads. Axes: B batch, Q texts, D their width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from ..backbones.block import BlockView, Role
from ..backbones.stack import Output, Stack
from ..core.site import Site
from ..methods.backbone import Backbone
from ..methods.reducer import Reducer
from .record import Record


class Binding:
    """A stack with its reducer: what attach makes, and every forward pass reads.

    Attributes:
        roles: of each block.
        sites: by block.
        original, backbone: what the reducer was settled from, so that it can be settled anew for a guide.
        guide: (1, Q, D) or (B, Q, D) text features that the user has set, or None.
        factor: how many times as much as configured is removed now (``handle.scale``).
        pauses: how many ``handle.paused()`` are open.
        last: record of the last pass.
        around: makes the context that each reduction runs in, for measuring; None for none.
    """

    def __init__(
        self,
        stack: Stack,
        views: list[BlockView],
        reducer: Reducer,
        original: Reducer,
        backbone: Backbone,
        sites: Mapping[int, Site],
        output: Output,
        trace: bool,
    ) -> None:
        self.stack, self.views, self.reducer, self.output = stack, views, reducer, output
        self.original, self.backbone, self.sites = original, backbone, dict(sites)
        self.roles: list[Role] = [stack.role(index) for index in range(len(views))]
        self.trace = trace
        self.track = trace or output != "reduced"
        self.guide: Tensor | None = None
        self.factor = 1.0
        self.pauses = 0
        self.last: Record | None = None
        self.around: Callable[[], AbstractContextManager[None]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pauses": 0}  # whoever paused this one will not resume a copy
