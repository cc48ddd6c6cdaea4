"""timm's models that cannot lose tokens, and why."""

from __future__ import annotations

from torch import nn

from tokenreduce_models.grid_bound import POOLING, RELATIVE, WINDOWS, sentence

REASONS: dict[str, str] = {
    "Beit": RELATIVE,
    "CoaT": POOLING,
    "DaVit": WINDOWS,
    "EfficientVitMsra": WINDOWS,
    "GlobalContextVit": WINDOWS,
    "Hiera": WINDOWS,
    "HieraDet": WINDOWS,
    "Levit": POOLING,
    "MaxxVit": WINDOWS,
    "MultiScaleVit": POOLING,
    "Nest": WINDOWS,
    "PoolingVisionTransformer": POOLING,
    "PyramidVisionTransformerV2": POOLING,
    "SwinTransformer": WINDOWS,
    "SwinTransformerV2": WINDOWS,
    "SwinTransformerV2Cr": WINDOWS,
    "TinyVit": WINDOWS,
    "Twins": WINDOWS,
    "VOLO": WINDOWS,
    "VisionTransformerRelPos": RELATIVE,
    "VisionTransformerSAM": WINDOWS,
}
"""By the name of a class of timm; which of them are there depends on its version."""


def grid_bound(model: nn.Module) -> nn.Module | None:
    """The first part of a model that needs a full grid, or None."""
    return next((module for module in model.modules() if _why(module)), None)


def reason(model: nn.Module) -> str:
    """Why a model without a tower that timm's adapters take is not supported."""
    found = grid_bound(model)
    if found is not None:
        return sentence(model, found, _why(found))
    if any("Rope" in type(m).__name__ or "RotaryEmbedding" in type(m).__name__ for m in model.modules()):
        return "has rotary position embeddings (RoPE) of its own, which no adapter carries along with the tokens"
    return "is built neither on timm's VisionTransformer nor on its Eva"


def _why(module: nn.Module) -> str:
    names = (kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("timm."))
    return next((REASONS[name] for name in names if name in REASONS), "")
