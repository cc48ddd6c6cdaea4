"""CLIP's vision towers for images of another size: open_clip's, and what was built with the same names.

Importing this file does not import open_clip.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from tokenreduce.backbones import Size, check_size, pair, resize_grid

if TYPE_CHECKING:
    from open_clip.timm_model import TimmModel


class Visual(Protocol):
    """A vision tower of CLIP. Towers that were not made by open_clip may lack the sizes and ``preprocess_cfg``."""

    conv1: nn.Conv2d
    positional_embedding: Tensor
    grid_size: Size
    image_size: Size
    preprocess_cfg: dict[str, Any]


def grid_of(visual: Visual) -> Size:
    """Rows and columns of patches that the position embeddings are for; a square if the tower does not say."""
    side = math.isqrt(len(visual.positional_embedding) - 1)
    return pair(getattr(visual, "grid_size", side))


def native_size(visual: Visual) -> Size:
    """Height and width of the images that a tower was made for."""
    (rows, columns), (high, wide) = grid_of(visual), pair(visual.conv1.kernel_size)
    return pair(getattr(visual, "image_size", (rows * high, columns * wide)))


def check_visual(visual: Visual, height: int, width: int) -> Size:
    """Rows and columns of patches in images of height x width pixels; OptionError if they are not whole."""
    return check_size(height, width, pair(visual.conv1.kernel_size), native_size(visual))


def resize_visual(visual: Visual, height: int, width: int, *, antialias: bool) -> None:
    """Change a tower with ``conv1`` and ``positional_embedding`` to take images of height x width pixels.

    Raises:
        OptionError: not whole patches.
        UnsupportedModelError: fewer position embeddings than patches.
    """
    grid = check_visual(visual, height, width)
    old = visual.positional_embedding
    new = resize_grid(old, grid_of(visual), grid, antialias=antialias)
    visual.positional_embedding = nn.Parameter(new, requires_grad=old.requires_grad)
    visual.grid_size, visual.image_size = grid, (height, width)
    note_size(visual, height, width)


def note_size(visual: Visual | TimmModel, height: int, width: int) -> None:
    """Let open_clip's preprocessing know, if it was told the old size."""
    known = getattr(visual, "preprocess_cfg", None)
    if known and "size" in known:
        visual.preprocess_cfg = {**known, "size": (height, width)}
