"""What a person sees of the inputs of a language model: pictures, and the tiles that they were cut into.

Axes: B batch, T tiles of a picture, R and C rows and columns of them, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from tokenreduce.tasks import Tile

View = tuple[Tensor, list[Tile]]
"""The whole picture (3, H, W), and its tiles in the order of their tokens; no tiles where it is one piece."""


def views(inputs: Mapping[str, Any], config: Any, undo: Callable[[Tensor], Tensor]) -> list[View]:
    """What each sample's picture looks like.

    Args:
        inputs: of the model, as the loader makes them.
        config: of the model.
        undo: from pixels as the model is given them, (B, 3, H, W), to 0..1.
    """
    pixels = inputs["pixel_values"]
    if isinstance(pixels, (list, tuple)):
        if "image_grid_thw" in inputs:
            grids = inputs["image_grid_thw"].tolist()
            found = [unpatched(one, grid, config.vision_config) for one, grid in zip(pixels, grids, strict=True)]
            return [(undo(one[None])[0], []) for one in found]
        if "image_grids" in inputs:
            whole = [undo(uncropped(one, config.vision_config.patch_size)[None])[0] for one in pixels]
            return [(one, [Tile(one, 0, 1), Tile(one, 0, 0)]) for one in whole]  # crops overlap: shown by the whole
        return [in_tiles(undo(one)) for one in pixels]
    sizes = inputs["image_sizes"].tolist() if "image_sizes" in inputs else None
    if pixels.ndim == 4:
        shown = list(undo(pixels))
        return [(one if sizes is None else one[:, : sizes[i][0], : sizes[i][1]], []) for i, one in enumerate(shown)]
    if sizes is not None:
        return [any_resolution(undo(one), size, config) for one, size in zip(pixels, sizes, strict=True)]
    mask = inputs.get("pixel_attention_mask")
    real = (pixels != 0).flatten(2).any(dim=2) if mask is None else mask.flatten(2).any(dim=2)
    return [in_tiles(undo(one[here])) for one, here in zip(pixels, real, strict=True)]


def in_tiles(pixels: Tensor) -> View:
    """Idefics3, InternVL: (T, 3, H, W), row by row, the whole picture behind them."""
    if len(pixels) == 1:
        return pixels[0], []
    whole, parts = pixels[-1], pixels[:-1]
    columns = columns_of(parts, whole)
    tiles = [Tile(one, *divmod(place, columns)) for place, one in enumerate(parts)]
    return whole, [*tiles, Tile(whole, 0, columns)]


def columns_of(parts: Tensor, whole: Tensor) -> int:
    """In how many columns tiles (T, 3, H, W) make up a picture (3, H', W'): the number that comes nearest to it."""
    count = len(parts)

    def distance(columns: int) -> float:
        made = F.interpolate(assembled(parts, columns)[None], size=whole.shape[1:], mode="bilinear", antialias=True)
        return float((made[0] - whole).square().mean())

    return min((columns for columns in range(1, count + 1) if count % columns == 0), key=distance)


def assembled(parts: Tensor, columns: int) -> Tensor:
    """Tiles (R * C, 3, H, W) side by side: (3, R * H, C * W)."""
    count, _, height, width = parts.shape
    rows = count // columns
    return parts.view(rows, columns, 3, height, width).permute(2, 0, 3, 1, 4).reshape(3, rows * height, columns * width)


def any_resolution(pixels: Tensor, size: Sequence[int], config: Any) -> View:
    """LLaVA-NeXT, OneVision: (T, 3, H, W), the whole picture first; borders are cut off the rest."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    whole = pixels[0]
    rows, columns = get_anyres_image_grid_shape(
        list(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    if len(pixels) <= rows * columns:
        return whole, []
    detail: Tensor = unpad_image(assembled(pixels[1 : 1 + rows * columns], columns), list(size))
    return whole, [Tile(whole, 0, 1), Tile(detail, 0, 0)]


def unpatched(patches: Tensor, grid: Sequence[int], config: Any) -> Tensor:
    """Qwen's patches (G, 3 * t * p * p), cells of ``spatial_merge_size`` side by side, as the picture (3, H, W)."""
    time, rows, columns = grid
    p, m, t = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    made = patches.view(time, rows // m, columns // m, m, m, 3, t, p, p)[0, ..., 0, :, :]
    return made.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * p, columns * p)


def uncropped(crops: Tensor, p: int) -> Tensor:
    """Molmo2's patches (T, G, p * p * 3) as the picture (3, H, W), which is the first crop."""
    side = round(crops.shape[1] ** 0.5)
    return crops[0].view(side, side, p, p, 3).permute(4, 0, 2, 1, 3).reshape(3, side * p, side * p)
