"""Pictures of any size to pixel values of the embedded models, and back. Axes: B batch, P pixels per side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .scenes import PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image


def to_pixels(images: Sequence[Image]) -> Tensor:
    """B pictures, resized whatever their shape, to (B, 3, P, P) in -1..1."""
    small = [image.convert("RGB").resize((PIXELS, PIXELS)) for image in images]
    values = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in small])
    return (torch.from_numpy(values).permute(0, 3, 1, 2).contiguous() - 0.5) / 0.5


def to_image(pixel_values: Tensor) -> list[Tensor]:
    """Pixel values (B, 3, H, W) in -1..1 to B pictures (3, H, W) in 0..1."""
    return list((pixel_values.detach().float().cpu() * 0.5 + 0.5).clamp(0, 1))
