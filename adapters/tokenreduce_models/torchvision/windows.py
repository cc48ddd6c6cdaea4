"""torchvision's models that cannot lose tokens, and why."""

from __future__ import annotations

from torch import nn
from torchvision.models import MaxVit, SwinTransformer
from torchvision.models.video import MViT, SwinTransformer3d

WINDOWS = "attends within windows of a full grid and merges neighbours between stages: no token may leave its place"
REASONS: dict[type[nn.Module], str] = {
    SwinTransformer: WINDOWS,
    SwinTransformer3d: WINDOWS,
    MaxVit: WINDOWS,
    MViT: "pools keys and values over a full grid of tokens in every block: no token may leave its place",
}


def windowed(model: nn.Module) -> nn.Module | None:
    """The first part of a model that needs a full grid, or None."""
    return next((module for module in model.modules() if isinstance(module, tuple(REASONS))), None)


def reason(model: nn.Module) -> str:
    """Why a model without a ``VisionTransformer`` is not supported."""
    found = windowed(model)
    if found is None:
        return "is not built on torchvision's VisionTransformer, and has no tokens that could be removed"
    why = next(why for kind, why in REASONS.items() if isinstance(found, kind))
    return f"{'' if found is model else f'holds a {type(found).__name__}, which '}{why}"
