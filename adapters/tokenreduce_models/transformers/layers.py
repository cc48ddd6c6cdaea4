"""What all stacks of transformers' layers have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tokenreduce.backbones import Stack


class LayerStack(Stack):
    """A stack whose blocks are ``GradientCheckpointingLayer``s."""

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        if not (block.gradient_checkpointing and block.training):
            return None
        return block._gradient_checkpointing_func
