"""The stacks of a METER model."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenreduce import Stack
from tokenreduce_transformers.roberta import RobertaStack

from .cross import CrossStack
from .heads import Classifier
from .model import MeterModel
from .original import OriginalCross
from .vision import MeterVisionStack, OriginalVisionStack


class MeterCross(CrossStack):
    """The levels of a :class:`MeterModel`: its method ``co_attend`` is replaced."""

    entry = "co_attend"

    def __init__(self, model: MeterModel, pooled: bool) -> None:
        super().__init__(model, model.config.level_order == "sequential")
        self.ending = "none" if pooled else "text"

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.model, name, getattr(MeterModel, name)) for name in ("co_attend", "encode")]


def own_stacks(meter: MeterModel, outermost: bool) -> dict[str, Stack]:
    """Of a model of this package; a head of yours around it gets every text token back."""
    return {
        "cross": MeterCross(meter, outermost and isinstance(meter, Classifier)),
        "vision": MeterVisionStack(meter.vit_model.visual),
        "text": RobertaStack(meter.text_transformer),
    }


def original_stacks(meter: nn.Module) -> dict[str, Stack]:
    """Of a model built from the published code."""
    return {"cross": OriginalCross(meter), "vision": OriginalVisionStack(meter.vit_model.visual)}
