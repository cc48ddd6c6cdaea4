"""METER: the models of this package, or a model built from the published code.

What needs open_clip is imported once a METER is there, so that other models do not wait for it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from tokenreduce.backbones import Adapter, Example, Stack
from tokenreduce.errors import UnsupportedModelError
from tokenreduce_models.open_clip.sizes import check_visual, resize_visual

from .published import Published, is_original

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from .model import MeterEncoder


class Meter(Adapter):
    """A METER model, bare, under one of its heads, or inside a model of your own."""

    def accepts(self, model: nn.Module) -> bool:
        return bool(_meters(model))

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = _meters(model)
        if len(found) > 1:
            raise UnsupportedModelError(f"{type(model).__name__} holds {len(found)} METER models; attach to one")
        from .stacks import original_stacks, own_stacks

        meter = found[0]
        return original_stacks(meter) if is_original(meter) else own_stacks(meter, meter is model)

    def refusals(self, model: nn.Module) -> dict[str, str]:
        if any(is_original(module) for module in model.modules()):
            return {"text": "the published code runs RoBERTa's layers one by one inside infer"}
        return {}

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        check_visual(_meters(model)[0].vit_model.visual, height, width)
        copied = copy.deepcopy(model)
        meter = _meters(copied)[0]
        resize_visual(meter.vit_model.visual, height, width, antialias=False)  # as the published code does
        if not is_original(meter):
            meter.config.image_size = height if height == width else (height, width)
        return copied

    def examples(self) -> dict[str, Callable[[], Example]]:
        from .examples import EXAMPLES

        return dict(EXAMPLES)


def _meters(model: nn.Module) -> list[MeterEncoder | Published]:
    return [module for module in model.modules() if _is_own(module) or is_original(module)]


def _is_own(module: nn.Module) -> TypeIs[MeterEncoder]:
    """Whether a module is a model of this package, which is not imported for it."""
    kind: Any = getattr(sys.modules.get("tokenreduce_models.meter.model"), "MeterEncoder", ())
    return isinstance(module, kind)
