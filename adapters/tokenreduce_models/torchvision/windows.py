"""torchvision's models that cannot lose tokens, and why."""

from __future__ import annotations

from torch import nn
from torchvision.models import MaxVit, SwinTransformer
from torchvision.models.video import MViT, SwinTransformer3d

from tokenreduce_models.grid_bound import POOLING, WINDOWS, sentence

REASONS: dict[type[nn.Module], str] = {
    SwinTransformer: WINDOWS,
    SwinTransformer3d: WINDOWS,
    MaxVit: WINDOWS,
    MViT: POOLING,
}


def windowed(model: nn.Module) -> nn.Module | None:
    """The first part of a model that needs a full grid, or None."""
    return next((module for module in model.modules() if isinstance(module, tuple(REASONS))), None)


def reason(model: nn.Module) -> str:
    """Why a model without a ``VisionTransformer`` is not supported."""
    found = windowed(model)
    if found is None:
        return "is not built on torchvision's VisionTransformer, and has no tokens that could be removed"
    return sentence(model, found, next(why for kind, why in REASONS.items() if isinstance(found, kind)))
