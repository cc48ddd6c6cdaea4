"""Towers of open_clip that are a timm ``VisionTransformer`` or ``Eva`` (``TimmModel.trunk``).

Axes: B batch, N tokens, C width, D width of the features shared with the text.
"""

from __future__ import annotations

from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from torch import Tensor

from tokenreduce.backbones import Adapter, Size, Stack, current
from tokenreduce.errors import UnsupportedModelError
from tokenreduce_models.timm.eva import EvaStack, TimmEva
from tokenreduce_models.timm.vit import TimmStack, TimmViT, check_tower

from .sizes import note_size


class SharedSpace(Stack):
    """What open_clip does behind a trunk, to every token; the tower is an attribute of the stack."""

    tower: TimmModel
    guidable = current(lambda s: s.tower.trunk.attn_pool is None and s.tower.trunk.global_pool in ("token", "avg"))

    def shared_space(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, D): what follows the blocks, without the pooling."""
        if not self.guidable:
            return super().shared_space(x)
        trunk = self.tower.trunk
        shared: Tensor = self.tower.head(trunk.head(trunk.head_drop(trunk.fc_norm(trunk.norm(x)))))
        return shared


class TrunkStack(SharedSpace, TimmStack):
    """timm's stack, with open_clip's projection behind it."""

    def __init__(self, tower: TimmModel) -> None:
        super().__init__(tower.trunk)
        self.tower = tower


class EvaTrunkStack(SharedSpace, EvaStack):
    """The same for an ``Eva``."""

    def __init__(self, tower: TimmModel) -> None:
        super().__init__(tower.trunk)
        self.tower = tower


def trunk_stack(tower: TimmModel) -> SharedSpace:
    """The stack of a timm tower.

    Raises:
        UnsupportedModelError: timm's adapters do not take the trunk, and why.
    """
    try:
        _family(tower).stacks(tower.trunk)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"the vision tower cannot be reduced: timm's {error}") from None
    return EvaTrunkStack(tower) if isinstance(tower.trunk, Eva) else TrunkStack(tower)


def trunk_patch(tower: TimmModel) -> Size | None:
    """Height and width of a patch in pixels."""
    return _family(tower).patch_size(tower.trunk)


def check_trunk(tower: TimmModel, height: int, width: int) -> None:
    """The errors of :func:`resize_trunk`, before anything is copied."""
    check_tower(tower.trunk, height, width)


def resize_trunk(tower: TimmModel, height: int, width: int) -> None:
    """Change a timm tower to take images of height x width pixels.

    Raises:
        UnsupportedModelError, OptionError: those of timm's adapter.
    """
    check_trunk(tower, height, width)
    tower.set_input_size((height, width))
    note_size(tower, height, width)


def _family(tower: TimmModel) -> Adapter:
    return TimmEva() if isinstance(tower.trunk, Eva) else TimmViT()
