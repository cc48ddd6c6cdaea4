"""What all stacks of transformers' layers have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tokenreduce.backbones import Stack


class LayerStack(Stack):
    """A stack whose blocks are ``GradientCheckpointingLayer``s."""

    ignored_hooks = ("transformers.utils.output_capturing",)  # of attention matrices, which every stack refuses

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        layer: Any = block  # a GradientCheckpointingLayer
        if not (layer.gradient_checkpointing and layer.training):
            return None
        function: Callable[..., Any] = layer._gradient_checkpointing_func
        return function
