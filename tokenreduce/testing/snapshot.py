"""All that attach may touch on a model."""

from __future__ import annotations

from typing import Any

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PLAIN = (bool, int, float, str, type(None))


def snapshot(model: nn.Module) -> Any:
    """Attributes, hooks, mode and weights of every module, by identity and version: equal when nothing was left behind.

    Weights count as changed when they were written to, even with the same values.
    """
    modules = []
    for name, module in model.named_modules():
        own = {key: value if isinstance(value, PLAIN) else id(value) for key, value in vars(module).items()}
        hooks = tuple(len(getattr(module, kind)) for kind in HOOKS)
        modules.append((name, id(module), type(module), module.training, own, hooks))
    tensors = [
        (name, id(tensor), tensor._version, tensor.requires_grad, tensor.dtype)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    ]
    return modules, tensors, list(model.state_dict())
