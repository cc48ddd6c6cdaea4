"""What every floor needs of torch: calling a model, evaluation mode, widths, waiting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnsupportedModelError

Inputs = Mapping[str, Any] | tuple[Any, ...]
"""Keyword arguments of a model's call, or positional ones."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model with keyword or positional inputs."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def plain_size(size: Any) -> int:
    """A size as numbers are computed with: ``torch.jit.trace`` gives tensors for sizes, on which ``round`` fails.

    A symbolic size (``torch.export``, ``torch.compile``) stays what it is.
    """
    whole: int = int(size) if isinstance(size, Tensor) else size
    return whole


def traced(tensor: Tensor) -> bool:
    """Whether the pass is compiled, exported or traced (``torch.jit.trace`` has tensors for sizes)."""
    size: object = tensor.shape[0]
    return torch.compiler.is_compiling() or isinstance(size, Tensor)


def synchronize(device: torch.device | None) -> None:
    """Wait until an accelerator has finished its work."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode without gradients, every module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def parameter_width(block: nn.Module) -> int:
    """Width of the tokens a block takes: that of its first norm, or of its first linear layer's input."""
    for module in block.modules():
        shape = getattr(module, "normalized_shape", None)
        if shape:
            return int(shape[-1])
        if isinstance(module, nn.Linear):
            return module.in_features
    raise UnsupportedModelError(f"{type(block).__name__} has neither a norm nor a linear layer; no width to probe")
