"""What accelerate leaves on the modules of a model that is spread over devices or offloaded, found by name.

Its hooks stand in front of a module's ``forward``, which they keep as ``_old_forward``: they bring inputs, and weights
that are held elsewhere, to the device where the module runs. A replacement of ``forward`` goes beneath such a hook, so
that the hook acts on it too, and is found there again when it is taken back. accelerate itself is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

HOOK, BENEATH = "_hf_hook", "_old_forward"
MOVES = ("AlignDevicesHook", "CpuOffload")
"""Hooks that move inputs and weights and do nothing else, by the names of their classes."""


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook of accelerate stands in front of the module's ``forward``."""
    own = vars(module)
    return HOOK in own and BENEATH in own


def place_of(module: nn.Module, attribute: str) -> str:
    """The attribute of the instance where a replacement of a method belongs: beneath a hook, where there is one."""
    return BENEATH if attribute == "forward" and is_hooked(module) else attribute


def standing(module: nn.Module, attribute: str) -> Any:
    """What stands at a method's place, without the method that another library may have bound it as."""
    found: Any = getattr(module, place_of(module, attribute), None)
    return found.__func__ if getattr(found, "__self__", None) is module else found


def is_replaced(module: nn.Module, attribute: str) -> bool:
    """Whether something other than the class's own method stands there; a hook of accelerate does not count."""
    place = place_of(module, attribute)
    return place in vars(module) and not _is_own(vars(module)[place], module, attribute)


def _is_own(found: Any, module: nn.Module, attribute: str) -> bool:
    """Whether what the instance has is only its class's method, as libraries leave it that were there before."""
    method = getattr(type(module), attribute, None)
    if getattr(found, "__self__", None) is not module:
        return False
    while method is not None and method is not found.__func__:  # perhaps without the class's own decorators
        method = getattr(method, "__wrapped__", None)
    return method is not None


def put(module: nn.Module, attribute: str, replacement: Any) -> Any:
    """Put a replacement in a method's place; what :func:`take_back` needs to undo it."""
    place = place_of(module, attribute)
    before = place, vars(module).get(place)
    setattr(module, place, replacement)
    return before


def take_back(module: nn.Module, attribute: str, replacement: Any, before: Any) -> None:
    """Undo :func:`put`, also where the model was dispatched, or its hooks were taken off, in between.

    Args:
        before: what ``put`` gave.
    """
    place, (placed, old) = place_of(module, attribute), before
    if place == BENEATH:
        own = MethodType(getattr(type(module), attribute), module) if old is None else old
        setattr(module, BENEATH, own)
        _forget(vars(module)["forward"], replacement, own)  # hooks that came after attach
        return
    delattr(module, place)
    if old is not None and placed == place:  # the class's own method, bound: attach refuses anything else
        setattr(module, place, old)


def _forget(front: Any, replacement: Any, own: Any) -> None:
    """Let a hook's function show the module's own method again, whose name and attributes it copied."""
    if getattr(front, "__wrapped__", None) is not replacement:
        return
    for name in getattr(replacement, "__dict__", {}):
        vars(front).pop(name, None)
    front.__wrapped__ = own
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(front, name, getattr(own, name, None))


def hooks_of(module: nn.Module) -> list[Any]:
    """The hooks of accelerate on a module, those of a sequence one by one."""
    if not is_hooked(module):
        return []
    hook = vars(module)[HOOK]
    return list(getattr(hook, "hooks", [hook]))


def only_moves(module: nn.Module) -> bool:
    """Whether the hooks on a module do no more than move its inputs and weights; True without any."""
    return all(any(kind.__name__ in MOVES for kind in type(hook).__mro__) for hook in hooks_of(module))


def holds_offloaded(module: nn.Module) -> bool:
    """Whether a hook brings weights of the module, which are held elsewhere, when it is called."""
    return any(bool(getattr(hook, "offload", False)) for hook in hooks_of(module))


def brings_parts(module: nn.Module) -> bool:
    """Whether a hook brings weights of all modules inside as well."""
    return any(bool(getattr(hook, "place_submodules", False)) for hook in hooks_of(module))


NOTHING = nullcontext[None]()


def loaded(*modules: nn.Module) -> AbstractContextManager[None]:
    """A context in which offloaded weights of these modules are there, though the modules are not called themselves."""
    offloaded = [module for module in modules if holds_offloaded(module)] if modules else None
    return _loaded(offloaded) if offloaded else NOTHING


@contextmanager
def _loaded(modules: Sequence[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            for hook in hooks_of(module):
                if getattr(hook, "offload", False):
                    hook.pre_forward(module)
                    stack.callback(hook.post_forward, module, None)
        yield


def beneath(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs where the module's own forward would: beneath its hooks, or as it is without any."""
    return Beneath(module, function) if is_hooked(module) else function


class Beneath:
    """Runs a function between what a module's hooks do before and after its ``forward``."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self.module, self.function = module, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hook = vars(self.module)[HOOK]
        args, kwargs = hook.pre_forward(self.module, *args, **kwargs)
        with torch.no_grad() if getattr(hook, "no_grad", False) else nullcontext():
            output = self.function(*args, **kwargs)
        return hook.post_forward(self.module, output)


def device_of(module: nn.Module) -> torch.device:
    """Where a module runs: where its hooks, or those of its parts, bring what they move; else where its weights are.

    The CPU where nothing tells.
    """
    for part in module.modules():
        for hook in hooks_of(part):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return _device(device)
        for tensor in part.parameters(recurse=False):
            if not tensor.is_meta:
                return tensor.device
    return torch.device("cpu")


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices that the parts of a model run on, the first one first."""
    own = [m for m in model.modules() if hooks_of(m) or any(True for _ in m.parameters(recurse=False))]
    return list(dict.fromkeys(device_of(module) for module in own)) or [torch.device("cpu")]


def _device(given: Any) -> torch.device:
    """A device out of what accelerate takes for one; a number is one of the accelerator's."""
    if not isinstance(given, int):
        return torch.device(given)
    current = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    return torch.device("cuda" if current is None else current.type, given)


def moved(value: Any, device: torch.device) -> Any:
    """Every tensor of a nest of tuples and mappings on a device; itself where all are there."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(side, device) for name, side in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(side, device) for side in value)
    return value
