"""What one forward pass through a stack holds: reducer, sites and states. Nothing of it is kept on the model.

Axes: B batch, H heads, N tokens, M memory tokens, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.reduction import Reduction
from ..core.site import Site
from ..core.state import State
from .binding import Binding
from .outputs import Undo
from .record import SiteCounts

States = dict[str, State]


class BlockResult(NamedTuple):
    """What one block gives: its tokens and its memory, and both as they were before the site where that is needed.

    All of it goes through a checkpoint, so that gradients reach dropped tokens that are restored at the end.
    """

    x: Tensor
    memory: Tensor | None = None
    before: Tensor | None = None
    memory_before: Tensor | None = None


class PassState:
    """What one pass has at its beginning, and what its blocks and sites note.

    Reducer, guide, sites and output are those at its beginning, also when a block is run again for its gradient.

    Args:
        binding: the stack with its reducer.
    """

    def __init__(self, binding: Binding) -> None:
        binding.look()
        binding.check_acting()
        self.binding, self.reducer, self.guide = binding, binding.acting, binding.guide
        self.space = binding.space
        self.blocks, self.output = binding.guard.blocks(), binding.output
        self.views, self.roles = binding.views, binding.roles
        self.early, self.proportional = self.reducer.position == "before_block", self.reducer.proportional_attention
        self.paused = binding.pauses > 0
        self.sites: Mapping[int, Site] = {} if self.paused else binding.live
        self.idle: Mapping[int, Site] = binding.idle
        self.readout = None if self.paused else binding.readout
        self.differentiates = torch.is_grad_enabled()
        self.losses: dict[int, dict[str, Tensor]] = {}
        self.states: list[States | None] = [None] * (len(binding.views) + 1)
        self.undo: dict[tuple[int, str], Undo] = {}
        self.done: dict[tuple[int, str], Reduction] = {}
        self.counts: dict[int, list[SiteCounts]] = {}
        self.memory: dict[int, Tensor] = {}
        self.heads: dict[tuple[int, bool], Tensor] = {}
        self._biases: dict[tuple[int, torch.dtype], tuple[State, Tensor | None]] = {}
