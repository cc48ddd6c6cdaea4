"""Multiply-adds, by torch's own flop counter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...], *, samples: int = 1) -> int:
    """Multiply-adds of one forward pass per sample: half of what ``torch.utils.flop_counter`` counts.

    Counted: matrix products, convolutions and attention, the reducer's own included. Not counted:
    elementwise work, norms, softmax, sorting, gathering.

    Args:
        model: any module, attached or not.
        inputs: keyword or positional arguments of the call.
        samples: batch size to divide by.
    """
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that the counter does not know
    try:
        with torch.no_grad(), counter:
            call(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return round(counter.get_total_flops() / 2 / samples)


def call(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...]) -> Any:
    """Call a model with keyword or positional inputs."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
