"""The stacks of a METER model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import Pass, Stack, device_of, evaluating
from tokenreduce.errors import UnsupportedModelError
from tokenreduce_models.transformers.bert import Plain
from tokenreduce_models.transformers.roberta import RobertaStack

from .cross import CrossStack
from .heads import Classifier
from .model import MeterEncoder
from .original import OriginalCross
from .published import Published
from .vision import MeterVisionStack, OriginalVisionStack


class MeterCross(CrossStack):
    """The levels of a model of this package: its method ``co_attend`` is replaced."""

    entry = "co_attend"

    def __init__(self, model: MeterEncoder, pooled: bool) -> None:
        super().__init__(model, model.config.level_order == "sequential")
        self.model = model
        self.output = "reduced" if pooled else "text"

    def forward(
        self, run: Pass, text: Tensor, image: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return self.run_levels(run, text, image, attention_mask)

    def prove(self) -> None:
        """Compare with the model's own ``co_attend`` on a few random tokens, one text padded.

        The blocks, which have proofs of their own, are functions here that tell apart all that they are given.
        """
        model, like = first_levels(self.model, 2), self.model.cross_modal_text_transform.weight
        stack = MeterCross(model, False)
        generator = torch.Generator().manual_seed(0)
        text, image = (torch.randn(2, n, like.shape[0], generator=generator) for n in (5, 7))
        device = device_of(self.model.cross_modal_text_layers)
        text, image = text.to(device, like.dtype), image.to(device, like.dtype)
        mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]], device=device)
        with evaluating(model):
            pairs = zip(stack.forward(Plain(stack), text, image, mask), model.co_attend(text, image, mask), strict=True)
            if not all(torch.equal(ours, theirs) for ours, theirs in pairs):
                raise UnsupportedModelError(f"co_attend of this {type(model).__name__} is not what this adapter knows")

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.model, name, getattr(MeterEncoder, name)) for name in ("co_attend", "encode")]


class Mixed(nn.Module):
    """In place of a block: what it gives depends on its tokens, on the other sequence, on both masks and on itself.

    Args:
        place: of the block among all.
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(
        self, x: Tensor, memory: Tensor, attention_mask: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        """(B, N, C), (B, M, C) and additive masks (B, 1, 1, N) and (B, 1, 1, M) to (B, N, C)."""
        own, other = ((mask == 0).to(x)[:, 0, 0, :, None] for mask in (attention_mask, encoder_attention_mask))
        seen = (2 * (x * own).sum(dim=1, keepdim=True) + 3 * (memory * other).sum(dim=1, keepdim=True)) / x.shape[1]
        return (torch.sin(x + seen + self.place),)


def first_levels(model: MeterEncoder, count: int) -> MeterEncoder:
    """The same model with so many levels of stand-ins for its blocks, which its loop treats as it does all."""
    short = copy.copy(model)
    short.__dict__ = dict(vars(model))
    short._modules = dict(model._modules)
    for side, name in enumerate(("cross_modal_text_layers", "cross_modal_image_layers")):
        levels = len(getattr(model, name)[:count])
        short._modules[name] = nn.ModuleList([Mixed(2 * level + side) for level in range(levels)])
    return short


def own_stacks(meter: MeterEncoder, outermost: bool) -> dict[str, Stack]:
    """Of a model of this package; a head of yours around it gets every text token back."""
    return {
        "cross": MeterCross(meter, outermost and isinstance(meter, Classifier)),
        "vision": MeterVisionStack(meter.vit_model.visual),
        "text": RobertaStack(meter.text_transformer),
    }


def original_stacks(meter: Published) -> dict[str, Stack]:
    """Of a model built from the published code."""
    return {"cross": OriginalCross(meter), "vision": OriginalVisionStack(meter.vit_model.visual)}
