"""The optimizer, and how its learning rate changes over the steps."""

from __future__ import annotations

import torch
from torch import nn

from ..engine.binding import SUBMODULE
from ..errors import OptionError
from .recipe import LoopSettings


def adamw(model: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW with betas 0.9 and 0.98: matrices decay, vectors do not, and a reducer's new weights learn faster.

    Raises:
        OptionError: no parameter takes gradients.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((SUBMODULE in name.split("."), parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise OptionError("the model has no parameter that takes gradients; undo requires_grad_(False) first")
    options = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if matrices else 0.0,
            "lr": settings.lr * (getattr(settings, "reducer_lr", 1.0) if new else 1.0),
        }
        for (new, matrices), parameters in sorted(groups.items())
    ]
    return torch.optim.AdamW(options, lr=settings.lr, betas=(0.9, 0.98))


def linear_decay(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step, from 0 on: linear warm-up, then a linear fall towards 0.

    Args:
        warmup: share of the steps.
    """
    rise = warmup * steps
    return min(1.0, (step + 1) / rise if rise else 1.0, (steps - step) / max(steps - rise, 1.0))


def trapezoid(step: int, steps: int, warmup: int = 200, decay: float = 0.2, least: float = 0.01) -> float:
    """Share of the highest learning rate at a step: linear warm-up, constant, linear fall to ``least``.

    Args:
        warmup: in steps.
        decay: share of the steps, the last ones, in which it falls.
    """
    return min(1.0, (step + 1) / warmup, max(least, (steps - step) / (decay * steps)))
