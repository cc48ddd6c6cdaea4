"""Copies of blocks with random weights, made from shapes: no weight is copied, and none has to be in memory.

What holds its weights in a form of its own (a quantised layer, one whose weights are loaded when it runs) is replaced
in the copy by a stand-in, a random function of the same shape: a view calls it as the block does, whatever it computes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.dispatch import BENEATH, HOOK, brings_parts, holds_offloaded, is_hooked, is_replaced, place_of

PRIME = 262139


class LinearStandIn(nn.Module):
    """Any layer from ``in_features`` to ``out_features``. Its matrix is not called ``weight``: it is to be called."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.matrix = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return x @ self.matrix.T


class TokenwiseStandIn(nn.Module):
    """Any layer that keeps the shape of its input, such as a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return x * self.factor + self.shift


def random_double(
    block: nn.Module,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    foreign: bool = False,
    attached: bool = False,
) -> nn.Module:
    """A copy of the block on the CPU in evaluation mode, with random weights and no hooks.

    Args:
        dtype: of all weights.
        foreign: whether linear layers of other libraries are replaced by stand-ins.
        attached: whether the block's ``forward`` is the engine's own, which the copy does without.
    """
    memo: dict[int, Any] = {}
    if attached:
        memo[id(vars(block)[place_of(block, "forward")])] = object()  # deleted below
    for module in block.modules():
        if is_hooked(module):  # a copy has its weights, and runs where they are
            memo.update({id(vars(module)[name]): object() for name in ("forward", HOOK) if name in vars(module)})
        stand_in = None if module is block else stand_in_of(module, foreign)
        if stand_in is not None:
            fill(stand_in.to(dtype), generator)
            memo[id(module)] = stand_in
            continue
        for name, value in vars(module).items():
            if name.endswith("_hooks"):  # they are not to be called, and may not be copyable
                memo[id(value)] = OrderedDict()
            elif isinstance(value, Tensor):  # what pruning puts in a parameter's place; it may have a history
                memo[id(value)] = random_like(value, generator, dtype)
        for parameter in module.parameters(recurse=False):
            made = random_like(parameter, generator, dtype)
            memo[id(parameter)] = nn.Parameter(made, requires_grad=made.is_floating_point())
        for buffer in module.buffers(recurse=False):
            memo[id(buffer)] = plain_copy(buffer, dtype)
    double = copy.deepcopy(block, memo).eval()
    if attached:
        delattr(double, place_of(block, "forward"))
    for module in double.modules():
        if HOOK in vars(module):
            for name in ("forward", HOOK, BENEATH):
                vars(module).pop(name, None)
    return double


def stand_in_of(module: nn.Module, foreign: bool) -> nn.Module | None:
    """What replaces a module in a copy; None where it can be copied."""
    leaf, loads = not module._modules, is_replaced(module, "forward")
    inner, outer = getattr(module, "in_features", None), getattr(module, "out_features", None)
    linear = isinstance(inner, int) and isinstance(outer, int)
    if leaf and loads:  # its forward was replaced on the instance, and may refer to this very module
        return LinearStandIn(inner, outer) if linear else TokenwiseStandIn()  # type: ignore[arg-type]
    if foreign and linear and type(module) is not nn.Linear:
        return LinearStandIn(inner, outer)  # type: ignore[arg-type]
    return None


def has_weights(block: nn.Module) -> bool:
    """Whether the block has weights, in memory or loaded when it runs; those of a model on "meta" are neither."""
    found, brought = False, set[nn.Module]()
    for module in block.modules():
        if holds_offloaded(module):
            brought.update(module.modules() if brings_parts(module) else [module])
        for parameter in module.parameters(recurse=False):
            if parameter.is_meta and module not in brought and not is_replaced(module, "forward"):
                return False
            found = True
    return found or any(stand_in_of(module, True) is not None for module in block.modules())


@torch.no_grad()
def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Random values for every parameter."""
    for parameter in module.parameters():
        parameter.copy_(random_like(parameter, generator, parameter.dtype))


def random_like(tensor: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Noise of a tensor's shape: rows of about unit length, vectors about one."""
    shape, length = tuple(tensor.shape), tensor.numel()
    if tensor.ndim <= 1:
        return tiled(length, generator, dtype).view(shape).mul_(0.2).add_(1)
    row = tensor[0].numel() if len(tensor) else 1
    return tiled(length, generator, dtype, max(row, 1) ** -0.5).view(shape)


def tiled(length: int, generator: torch.Generator, dtype: torch.dtype, factor: float = 1.0) -> Tensor:
    """Normal noise times a factor, over and over: drawing every number of a large matrix takes longer than all else.

    It begins anywhere, and is as long as a prime, so that no two rows of a matrix are alike.
    """
    drawn = pool(dtype)
    first = int(torch.randint(len(drawn), (), generator=generator, device="cpu"))
    times = -(-(first + length) // len(drawn))
    return (drawn * factor).repeat(times)[first : first + length]  # a ninth of the time of torch.cat


@lru_cache(maxsize=4)
def pool(dtype: torch.dtype) -> Tensor:
    """The same (PRIME,) draws for every proof; nobody writes to them."""
    with torch.inference_mode(False):
        return torch.randn(PRIME, generator=torch.Generator().manual_seed(0), dtype=dtype, device="cpu")


def plain_copy(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    """A buffer's values on the CPU, floating ones in ``dtype``; zeros where it is not in memory."""
    wanted = dtype if buffer.is_floating_point() else buffer.dtype
    if buffer.is_meta:
        return torch.zeros(tuple(buffer.shape), dtype=wanted)
    return buffer.detach().to("cpu", wanted, copy=True)
