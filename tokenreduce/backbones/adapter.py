"""One model family: which models are of it, and their stacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UnsupportedModelError
from .patch_grid import Size, conv_patch
from .stack import Stack


@dataclass(frozen=True)
class Example:
    """A small model with random weights and inputs for it, to try an adapter on."""

    model: nn.Module
    inputs: dict[str, Any]


class Adapter:
    """One model family."""

    def accepts(self, model: nn.Module) -> bool:
        """Whether the model is of this family at all."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define accepts(model)")

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        """The stacks of a model of this family by name; the first one is the default.

        Raises:
            UnsupportedModelError: of this family, but one that cannot be done, and why.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not define stacks(model)")

    def refusals(self, model: nn.Module) -> dict[str, str]:
        """Towers of the model that a user may name but that cannot be reduced, each with the reason."""
        return {}

    def patch_size(self, model: nn.Module) -> Size | None:
        """Height and width in pixels of the patches that the model cuts pictures into, None if it does not."""
        return conv_patch(model)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        """A model with the same weights that takes images of ``height`` x ``width`` pixels.

        ``model`` itself is left as it is: what comes back is a copy whose position embeddings are interpolated
        (:func:`tokenreduce.backbones.resize_grid` helps), or ``model`` where it takes images of any size. At the size
        that the model was made for, both compute the same.

        Raises:
            UnsupportedModelError: the model cannot be had for another size, and why.
            OptionError: the size is not one of whole patches.
        """
        raise UnsupportedModelError(f"{type(self).__name__} cannot change the input size of {type(model).__name__}")

    def examples(self) -> dict[str, Callable[[], Example]]:
        """Makers of small random models of this family, by a label that names the class (docs and tests use them)."""
        return {}
