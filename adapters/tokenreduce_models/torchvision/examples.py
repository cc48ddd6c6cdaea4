"""Small random torchvision models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

from tokenreduce.backbones import Example

SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 4,
    "num_heads": 4,
    "hidden_dim": 32,
    "mlp_dim": 64,
    "num_classes": 7,
}
STEM = [ConvStemConfig(8, 3, 2), ConvStemConfig(16, 3, 2), ConvStemConfig(32, 3, 2)]


def example(**options: Any) -> Example:
    """A ``VisionTransformer`` with noise in every weight, and two images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionTransformer(**{**SMALL, **options}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter)
                scale = 0.2 if parameter.ndim == 1 else 0.5 if parameter.ndim == 3 else parameter[0].numel() ** -0.5
                parameter.copy_(noise * scale + (parameter if parameter.ndim == 1 else 0))
        return Example(model, {"x": torch.randn(2, 3, 32, 32)})


EXAMPLES: dict[str, Callable[[], Example]] = {
    "VisionTransformer": example,
    "VisionTransformer, hidden layer in the head": partial(example, representation_size=16),
    "VisionTransformer, convolutional stem": partial(example, conv_stem_configs=STEM),
}
