"""Pictures cut into patches: the sizes that fit, the layer that cuts, the grid of position embeddings.

Axes: p tokens in front of the patches, h and w rows and columns of patches, C width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError, UnsupportedModelError

Size = tuple[int, int]


def pair(size: int | Iterable[int]) -> Size:
    """Height and width out of one number for both, or two."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def conv_patch(model: nn.Module) -> Size | None:
    """Height and width in pixels of a patch: of the first convolution that cuts pictures into patches side by side."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels in (1, 3) and module.kernel_size == module.stride:
            return pair(module.kernel_size)
    return None


def check_size(height: int, width: int, patch: Size, native: Size | None = None) -> Size:
    """Rows and columns of patches in pictures of ``height`` x ``width`` pixels.

    Args:
        native: the size that the model was made for, which fits even where patches leave a rest of it.

    Raises:
        OptionError: not whole numbers of pixels, or not whole patches.
    """
    for name, side, step in zip(("height", "width"), (height, width), patch, strict=True):
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise OptionError(f"{name} must be a whole number of pixels from {step} on, got {side!r}")
        if side % step and (height, width) != native:
            low = side // step * step
            near = " or ".join(str(size) for size in (low, low + step) if size)
            raise OptionError(f"{name} must be a multiple of {step}, the side of a patch, got {side}; try {near}")
    return height // patch[0], width // patch[1]


@torch.no_grad()
def resize_grid(positions: Tensor, old: Size, new: Size, *, antialias: bool) -> Tensor:
    """Position embeddings for another grid of patches, by bicubic interpolation.

    Args:
        positions: (p + h * w, C); the first p stay as they are.
        old: (h, w).
        new: (h', w').
        antialias: whether a smaller grid averages over what it leaves out, as timm and open_clip do.

    Returns:
        (p + h' * w', C); ``positions`` itself, bit for bit, if the grid stays.

    Raises:
        UnsupportedModelError: there are fewer positions than patches.
    """
    front = len(positions) - old[0] * old[1]
    if front < 0:
        raise UnsupportedModelError(
            f"at least {old[0]} x {old[1]} position embeddings were expected, one per patch, got {len(positions)}; "
            "the input size of this model cannot be changed"
        )
    if old == new:
        return positions.clone()
    kept = positions.dtype if positions.dtype == torch.float64 else torch.float32
    grid = positions[front:].T.reshape(1, -1, *old).to(kept)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([positions[:front], grid[0].flatten(1).T.to(positions.dtype)])
