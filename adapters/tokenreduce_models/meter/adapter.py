"""METER: the models of this package, or a model built from the published code.

What needs open_clip is imported once a METER is there, so that other models do not wait for it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from tokenreduce.backbones import Adapter, Example, Stack
from tokenreduce.errors import UnsupportedModelError
from tokenreduce_models.open_clip.sizes import check_visual, resize_visual

from .original import is_original


class Meter(Adapter):
    """A METER model, bare, under one of its heads, or inside a model of your own."""

    def accepts(self, model: nn.Module) -> bool:
        return bool(_meters(model))

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = _meters(model)
        if len(found) > 1:
            raise UnsupportedModelError(f"{type(model).__name__} holds {len(found)} METER models; attach to one")
        from .stacks import original_stacks, own_stacks

        return original_stacks(found[0]) if is_original(found[0]) else own_stacks(found[0], found[0] is model)

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


def _meters(model: nn.Module) -> list[nn.Module]:
    own: Any = getattr(sys.modules.get("tokenreduce_models.meter.model"), "MeterModel", ())
    return [module for module in model.modules() if isinstance(module, own) or is_original(module)]
