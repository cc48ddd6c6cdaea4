"""Models for pictures of another size. Axes: H and W pixels."""

from __future__ import annotations

from torch import nn

from ..backbones.patch_grid import Size, conv_patch
from ..errors import AlreadyAttachedError, UnsupportedModelError
from ..registry.registry import default_registry
from .adapter_lookup import find_adapter
from .lifecycle import attachment


def resize_model(model: nn.Module, height: int, width: int, adapter: str | None = None) -> nn.Module:
    """A model with the same weights for pictures of ``height`` x ``width`` pixels; ``model`` is left as it is.

    Args:
        model: a model that an adapter takes, without a reducer.
        adapter: name of the adapter, if not to be found.

    Returns:
        A copy with interpolated position embeddings, or ``model`` itself where it takes pictures of any size.

    Raises:
        UnsupportedModelError: no adapter takes the model, or it takes pictures of one size only.
        OptionError: not whole patches; the message has the nearest sizes.
        AlreadyAttachedError: the model carries a reducer.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"resize_model expects a torch.nn.Module, got {type(model).__name__}")
    if attachment(model) is not None:
        raise AlreadyAttachedError(
            f"{type(model).__name__} carries a reducer; detach() it, resize the plain model, and attach to the result"
        )
    _, found, _ = find_adapter(default_registry(), model, adapter)
    return found.resize(model, height, width)


def patch_size(model: nn.Module) -> Size | None:
    """Height and width in pixels of the model's patches; None where nothing in it cuts pictures into patches."""
    try:
        _, found, _ = find_adapter(default_registry(), model, None)
    except UnsupportedModelError:
        return conv_patch(model)
    return found.patch_size(model)
