"""ViT and DeiT of transformers.

The tokens of a bare ``ViTModel`` or ``DeiTModel``, and those under masked image modeling, all come back to their
places; classifiers read the class token (DeiT with teacher: and the distillation token) and get what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from transformers import DeiTConfig, ViTConfig
from transformers.models.deit.modeling_deit import (
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTForMaskedImageModeling,
    DeiTLayer,
    DeiTModel,
)
from transformers.models.vit.modeling_vit import (
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTLayer,
    ViTModel,
)

from tokenreduce.backbones import Example, Stack
from tokenreduce.errors import UnsupportedModelError

from .prenorm import Parts
from .tiny import LABELS, VISION, pixels, tiny
from .towers import Family, Head, TowerAdapter
from .windows import grid_bound, reason

PARTS = Parts(
    "attention",
    "layernorm_before",
    "layernorm_after",
    "o_proj",
    "num_attention_heads",
    "scaling",
    "attention_dropout",
    after1=("dropout",),
    after2=("dropout",),
)
VIT = {
    ViTModel: Head("full"),
    ViTForImageClassification: Head("reduced", rows=1),
    ViTForMaskedImageModeling: Head("full", class_token=False, whole=True),
}
DEIT = {
    DeiTModel: Head("full"),
    DeiTForImageClassification: Head("reduced", rows=1),
    DeiTForImageClassificationWithTeacher: Head("reduced", rows=2),
    DeiTForMaskedImageModeling: Head("full", class_token=False, whole=True),
}

MASKED = (ViTForMaskedImageModeling, DeiTForMaskedImageModeling)


class ViT(TowerAdapter):
    """A ``ViTModel`` or ``DeiTModel``, bare, in one of the library's models, or under a head of your own.

    It also says why Swin and others that need a full grid of tokens are refused.
    """

    families = (
        Family(ViTModel, ViTModel, ViTLayer, PARTS, 1, heads=VIT),
        Family(DeiTModel, DeiTModel, DeiTLayer, PARTS, 2, heads=DEIT),
    )

    def accepts(self, model: nn.Module) -> bool:
        return super().accepts(model) or grid_bound(model) is not None

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        part = None if self.towers(model) else grid_bound(model)
        if part is not None:
            raise UnsupportedModelError(f"{type(model).__name__} {reason(model, part)}")
        return super().stacks(model)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        for module in model.modules():
            if isinstance(module, MASKED) and height != width:
                raise UnsupportedModelError(
                    f"{type(module).__name__} lays its tokens out as a square again, so it takes square images only, "
                    f"got {height} x {width}"
                )
        return super().resize(model, height, width)

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {kind.__name__: partial(_example, kind) for kind in (*VIT, *DEIT)}


def _example(kind: type[nn.Module]) -> Example:
    config = DeiTConfig if kind in DEIT else ViTConfig
    return Example(tiny(kind, config(**VISION, encoder_stride=8, **LABELS)), {"pixel_values": pixels()})
