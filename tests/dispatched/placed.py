"""Tensors that lie on devices this machine need not have: computed on the CPU, and never mixed.

An operation on tensors of two devices raises, as on accelerators; a single number of the CPU goes with any. What
comes out lies where its inputs do. So the numbers are real ones, and equal to those of the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
LEAVE = {Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.numpy, Tensor.__repr__}
DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}


class Placed(Tensor):
    """A tensor of the CPU that says it lies elsewhere."""

    where: torch.device

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def place(tensor: Tensor, device: Any) -> Tensor:
    """The same numbers, said to lie on a device."""
    device, plain = torch.device(device), plain_of(tensor)
    if device.type == "cpu":
        return plain
    with torch._C.DisableTorchFunction():
        placed: Placed = plain.as_subclass(Placed)
    placed.where = device
    return placed


def plain_of(value: Any) -> Any:
    """The tensor as the CPU has it; anything else as it is."""
    if not isinstance(value, Placed):
        return value
    with torch._C.DisableTorchFunction():
        return value.as_subclass(Tensor)


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor is said to lie."""
    return tensor.where if isinstance(tensor, Placed) else CPU


def run(function: Any, args: Any, kwargs: Any) -> Any:
    """One call: on tensors of one device, with what it gives on the same."""
    if function == DEVICE:
        return args[0].where
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    places = {device_of(tensor) for tensor in tensors if isinstance(tensor, Placed) or tensor.ndim}
    if function in INDEXED:  # an index may lie on the CPU
        tensors = [args[0], *(t for t in tensors if t is not args[0] and isinstance(t, Placed))]
    wide = {device_of(tensor) for tensor in tensors if plain_of(tensor).ndim}
    asked = kwargs.pop("device", None)
    if function in MOVES:
        found = [torch.device(a) for a in args[1:] if isinstance(a, (str, torch.device))]
        found += [device_of(a) for a in args[1:] if isinstance(a, Tensor)]
        asked = CPU if function is Tensor.cpu else asked or next(iter(found), device_of(args[0]))
        args = (args[0], *(a.dtype if isinstance(a, Tensor) else a for a in args[1:]))
        args = tuple(a for a in args if not isinstance(a, (str, torch.device)))
        kwargs.pop("non_blocking", None)
    elif len(wide) > 1:
        raise RuntimeError(f"{function} was given tensors on {sorted(map(str, wide))}")
    args, kwargs = tree_map(plain_of, (args, kwargs))
    with torch._C.DisableTorchFunction():
        out = args[0] if function in MOVES and len(args) == 1 and not kwargs else function(*args, **kwargs)
    if function in LEAVE or (getattr(function, "__name__", "") == "__get__" and not isinstance(out, Tensor)):
        return out
    device = torch.device(asked) if asked is not None else next(iter(wide or places), CPU)
    return tree_map(lambda leaf: place(leaf, device) if isinstance(leaf, Tensor) else leaf, out)


class Making(TorchFunctionMode):
    """A context in which tensors are made on devices that are not there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        made = device is not None and torch.device(device).type != "cpu"
        if function in MOVES or (made and not any(issubclass(kind, Placed) for kind in types)):
            return run(function, args, kwargs)
        return function(*args, **kwargs)


def put(module: nn.Module, device: str) -> None:
    """Weights and buffers of a module on a device, with accelerate's hook that brings its inputs there."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    own[name] = place(tensor.detach(), device)
    for part in module.modules():
        add_hook_to_module(part, AlignDevicesHook(execution_device=torch.device(device)))
