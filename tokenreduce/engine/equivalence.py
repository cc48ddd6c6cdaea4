"""Proof that a view computes what its block computes, before anything is changed.

The block is copied, its copy filled with random weights in float64, and both are run on a few random
tokens. Random weights keep a zero-initialised or tiny part (LayerScale at 1e-5) from hiding a difference.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import parameter_width
from ..backbones.block import BlockView
from ..backbones.positions import Positions
from ..backbones.stack import Stack
from ..core.state import key_bias
from ..errors import UnsupportedModelError
from .attention import attention

TOLERANCE = 1e-5  # of the largest change that the block makes; parts that compute in float32 stay below it


def prove(stack: Stack) -> None:
    """Check one block of each structure in the stack.

    Raises:
        UnsupportedModelError: a view differs from its block, or the block cannot be run on its own.
    """
    seen: set[Any] = set()
    for index, block in enumerate(stack.blocks):
        shape = structure(block)
        if shape not in seen:
            seen.add(shape)
            _prove_block(stack, index, block, f"{type(block).__name__} {index} of stack {stack.name!r}")
    stack.prove()


def structure(block: nn.Module) -> tuple[Any, ...]:
    """What tells blocks apart: module types and parameter shapes."""
    kinds = tuple((name, type(module), "forward" in vars(module)) for name, module in block.named_modules())
    return kinds, tuple((name, tuple(p.shape)) for name, p in block.named_parameters())


@torch.no_grad()
def _prove_block(stack: Stack, index: int, block: nn.Module, label: str) -> None:
    parameter = next(block.parameters(), None)
    if parameter is None or parameter.is_meta:
        raise UnsupportedModelError(f"{label} has no weights in memory; load the model before attaching")
    device = parameter.device if parameter.device.type != "mps" else torch.device("cpu")  # mps has no float64
    generator = torch.Generator().manual_seed(0)
    double = random_double(block, generator).to(device)
    view = stack.view(double)
    width = parameter_width(block)
    x = torch.randn(2, 5, width, generator=generator, dtype=torch.float64).to(device)
    positions = stack.probe_positions(x)
    memory = None
    if stack.role(index).memory is not None:
        memory = torch.randn(2, 4, view.memory_width or width, generator=generator, dtype=torch.float64).to(device)
    masks: list[tuple[Tensor | None, Tensor | None]] = [(None, None)]
    if stack.padded:
        mask = torch.tensor([[True] * 5, [True, True, False, True, False]], device=device)
        masks.append((mask, mask[:, :4] if memory is not None and stack.padded_memory else None))
    for real, memory_real in masks:
        try:
            if memory is None:
                given: dict[str, Any] = {} if positions is None else {"positions": positions}
                expected = stack.reference(double, x, real, **given)
            else:
                expected = stack.reference(double, x, real, memory, memory_real)
        except Exception as error:
            raise UnsupportedModelError(
                f"{label} cannot be run on tokens alone ({type(error).__name__}: {error}), so no view of it can be "
                "proved"
            ) from error
        got = _run_view(view, x, real, memory, memory_real, positions)
        rows = torch.ones(2, 5, dtype=torch.bool, device=device) if real is None else real
        scale = (expected - x)[rows].abs().max()
        difference = (got - expected)[rows].abs().max()
        if not bool(difference <= TOLERANCE * scale):
            raise UnsupportedModelError(
                f"the view of {label} does not compute what the block computes: largest difference "
                f"{float(difference):.3g} where the block changes its input by {float(scale):.3g}. The view leaves out "
                "a part, or the library has changed the block: then please report it with the library's version."
            )


def _run_view(
    view: BlockView,
    x: Tensor,
    real: Tensor | None,
    memory: Tensor | None,
    memory_real: Tensor | None,
    positions: Positions | None,
) -> Tensor:
    """What the view makes of tokens (B, N, C) and a memory (B, M, C'), as the engine would run it."""
    projected = view.project(x) if positions is None else view.project_at(x, positions)
    bias = key_bias(projected.query, None, None, real)
    x = view.attend(x, attention(view, projected, bias, False), projected)
    if memory is not None:
        projected = view.project_memory(x, memory)
        bias = key_bias(projected.query, None, None, memory_real)
        x = view.attend_memory(x, attention(view, projected, bias, False), projected)
    return view.mlp(x)


def random_double(block: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of the block in float64 and evaluation mode, with random weights and no hooks."""
    memo: dict[int, Any] = {}
    for module in block.modules():  # hooks stay behind: they are not to be called, and may not be copyable
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            memo[id(hooks)] = OrderedDict()
        memo[id(module._backward_pre_hooks)] = OrderedDict()
    double = copy.deepcopy(block, memo).to("cpu").double().eval()
    for parameter in double.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim > 1:
            parameter.copy_(noise / max(parameter[0].numel(), 1) ** 0.5)
        else:
            parameter.copy_(1 + 0.2 * noise)
    return double
