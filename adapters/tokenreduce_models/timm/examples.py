"""Small random timm models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from tokenreduce.backbones import Example

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 7}


def example(kind: type[nn.Module] = VisionTransformer, **options: Any) -> Example:
    """A model of this class with noise in every weight, and two images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**{**SMALL, **options}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter)
                scale = 0.2 if parameter.ndim == 1 else 0.5 if parameter.ndim == 3 else parameter[0].numel() ** -0.5
                parameter.copy_(noise * scale + (parameter if parameter.ndim == 1 else 0))
        return Example(model, {"x": torch.randn(2, 3, 32, 32)})


EXAMPLES: dict[str, Callable[[], Example]] = {
    "VisionTransformer, class token": example,
    "VisionTransformer, class and register tokens": partial(example, reg_tokens=2),
    "VisionTransformer, mean of the patches": partial(example, global_pool="avg"),
    "VisionTransformer, attention pooling": partial(example, global_pool="map", class_token=False),
    "VisionTransformer, LayerScale and QK norm": partial(example, init_values=0.1, qk_norm=True),
    "VisionTransformer, post-norm blocks": partial(example, block_fn=ResPostBlock),
}
