"""Vision embeddings of transformers for images of another size.

Position embeddings are interpolated once, as the library's own ``interpolate_pos_encoding`` would on every pass.
For squares that is all: the embeddings stay the library's. The library takes other shapes only if it may
interpolate, so there it is told to, and given the positions as they are.

Axes: N tokens, C width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenreduce.backbones import Size, check_size, pair, resize_grid
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

NAMES = ("position_embedding", "position_embeddings")


class Embeddings(Protocol):
    """Vision embeddings of transformers: what is changed in them, wherever they keep their positions."""

    image_size: int | Size
    num_positions: int
    position_ids: Tensor
    forward: Callable[..., Tensor]
    interpolate_pos_encoding: Callable[[Tensor, int, int], Tensor]


def native_size(embeddings: Embeddings) -> Size:
    """Height and width of the images that the embeddings were made for."""
    return pair(_patches(embeddings).image_size)


def check_embeddings(embeddings: Embeddings, height: int, width: int) -> Size:
    """Rows and columns of patches in images of height x width pixels.

    Raises:
        OptionError: not whole patches.
        UnsupportedModelError: its parts are not those of the library's embeddings.
    """
    holder = _patches(embeddings)
    if not _name(embeddings) or not hasattr(holder, "image_size") or not hasattr(holder, "patch_size"):
        raise UnsupportedModelError(
            f"{type(embeddings).__name__} has no position embeddings, image_size and patch_size, as the embeddings of "
            "transformers have; its input size cannot be changed"
        )
    return check_size(height, width, pair(holder.patch_size), native_size(embeddings))


def resize_embeddings(embeddings: Embeddings, config: Any, height: int, width: int, *, antialias: bool = False) -> None:
    """Change an embeddings module to take images of height x width pixels; the errors of :func:`check_embeddings`.

    Args:
        config: the tower's, whose ``image_size`` is changed too, so that squares can be saved and loaded.
        antialias: whether the library's own interpolation does.
    """
    new, old = check_embeddings(embeddings, height, width), check_embeddings(embeddings, *native_size(embeddings))
    if new != old:
        _set_positions(embeddings, resize_grid(_positions(embeddings), old, new, antialias=antialias))
    holder, size = _patches(embeddings), (height, width)
    side = height if height == width else size
    embeddings.image_size, config.image_size = side, side
    if holder is not embeddings:  # these families keep two numbers for squares too
        embeddings.image_size, holder.image_size = size, size
    holder.num_patches = new[0] * new[1]
    vars(embeddings).pop("forward", None)
    vars(embeddings).pop("interpolate_pos_encoding", None)
    if height != width:
        embeddings.interpolate_pos_encoding = Stored(embeddings, size)
        parameters = list(inspect.signature(type(embeddings).forward).parameters)
        if "interpolate_pos_encoding" in parameters:
            embeddings.forward = Interpolating(embeddings, parameters.index("interpolate_pos_encoding") - 1)


class Stored:
    """``interpolate_pos_encoding`` of embeddings whose positions are interpolated already."""

    def __init__(self, embeddings: Embeddings, size: Size) -> None:
        self.embeddings, self.size = embeddings, size

    def __call__(self, x: Tensor, height: int, width: int) -> Tensor:
        """All positions, (1, N, C)."""
        if (height, width) != self.size:
            expected = " x ".join(map(str, self.size))
            raise UnsupportedCallError(
                f"this model was resized to images of {expected} pixels, got {height} x {width}; resize the inputs too "
                "(tokenreduce.tasks.inputs.resize_inputs)"
            )
        return _positions(self.embeddings).unsqueeze(0)


class Interpolating:
    """``forward`` of embeddings, with ``interpolate_pos_encoding=True`` whatever the caller says."""

    def __init__(self, embeddings: Embeddings, place: int) -> None:
        self.embeddings, self.place = embeddings, place

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        kwargs["interpolate_pos_encoding"] = True
        out: Tensor = type(self.embeddings).forward(self.embeddings, *args[: self.place], **kwargs)
        return out


def _patches(embeddings: Embeddings) -> Any:
    """The module that knows the sizes of image and patch."""
    return getattr(embeddings, "patch_embeddings", embeddings)


def _name(embeddings: Embeddings) -> str:
    """The attribute that holds the position embeddings; empty if there is none."""
    return next((name for name in NAMES if getattr(embeddings, name, None) is not None), "")


def _positions(embeddings: Embeddings) -> Tensor:
    """(N, C)."""
    held = getattr(embeddings, _name(embeddings))
    positions: Tensor = held.weight if isinstance(held, nn.Embedding) else held[0]
    return positions


def _set_positions(embeddings: Embeddings, new: Tensor) -> None:
    name = _name(embeddings)
    held = getattr(embeddings, name)
    if isinstance(held, nn.Embedding):
        held.weight = nn.Parameter(new, requires_grad=held.weight.requires_grad)
        held.num_embeddings = embeddings.num_positions = len(new)
        embeddings.position_ids = torch.arange(len(new), device=new.device).unsqueeze(0)
    else:
        setattr(embeddings, name, nn.Parameter(new.unsqueeze(0), requires_grad=held.requires_grad))
