"""The pictures among a model's inputs, and the same inputs with smaller ones. Axes: B batch, H and W pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.patch_grid import Size, check_size

if TYPE_CHECKING:
    from .._torch import Inputs


def image_size(inputs: Inputs) -> Size | None:
    """Height and width of the pictures among a model's inputs; None if there are none.

    Pictures are the floating-point tensor (..., 3 or 1, H, W) with most axes, at least four.
    """
    found = [value for value in _leaves(inputs) if _is_image(value)]
    if not found:
        return None
    largest = max(found, key=lambda image: (image.ndim, image.shape[-3]))
    return largest.shape[-2], largest.shape[-1]


def resize_inputs(inputs: Inputs, height: int, width: int) -> Inputs:
    """The same inputs with pictures of ``height`` x ``width`` pixels.

    Pictures are resized smoothly, whole-number and boolean masks (B, ..., H, W) of their size to the nearest
    pixel; all else is handed on. Inputs that have that size already come back as they are.

    Args:
        inputs: keyword arguments, or a tuple of positional ones; lists and mappings inside are gone through too.

    Raises:
        OptionError: not whole numbers of pixels.
    """
    check_size(height, width, (1, 1))
    old = image_size(inputs)
    if old is None or old == (height, width):
        return inputs

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or tuple(value.shape[-2:]) != old:
            return value
        if _is_image(value):
            return _smooth(value, (height, width))
        masks = value.ndim > 2 and not value.is_floating_point() and not value.is_complex()
        return _nearest(value, (height, width)) if masks else value

    if isinstance(inputs, Mapping):
        return {name: _mapped(change, value) for name, value in inputs.items()}
    return tuple(_mapped(change, value) for value in inputs)


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 4 and value.shape[-3] in (1, 3)


def _smooth(image: Tensor, size: Size) -> Tensor:
    """(..., C, H, W) to (..., C, *size); half precision is worked out in single."""
    single = image if image.dtype == torch.float64 else image.float()
    flat = single.flatten(0, -4)
    flat = F.interpolate(flat, size=size, mode="bicubic", align_corners=False, antialias=True)
    return flat.reshape(*image.shape[:-2], *size).to(image.dtype)


def _nearest(mask: Tensor, size: Size) -> Tensor:
    """(..., H, W) to (..., *size): of each new pixel, the old one at its middle."""
    for axis, new in zip((-2, -1), size, strict=True):
        places = (2 * torch.arange(new, device=mask.device) + 1) * mask.shape[axis] // (2 * new)
        mask = mask.index_select(axis, places)
    return mask


def _leaves(value: Any) -> Iterator[Any]:
    """What is in a nest of mappings, lists and tuples."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nest with every leaf changed."""
    if isinstance(value, Mapping):
        return {name: _mapped(change, part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(change, part) for part in value)
    return change(value)
