"""DINOv2 of transformers, with and without register tokens.

Every token of a bare model comes back to its place; the classifier reads the class token and the mean of the
patches, where a merged token counts as often as it has members.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from transformers import Dinov2Config, Dinov2WithRegistersConfig, PreTrainedModel
from transformers.models.dinov2.modeling_dinov2 import (
    Dinov2Backbone,
    Dinov2Encoder,
    Dinov2ForImageClassification,
    Dinov2Layer,
    Dinov2Model,
)
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersBackbone,
    Dinov2WithRegistersEncoder,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersLayer,
    Dinov2WithRegistersModel,
)

from tokenreduce.backbones import Example, Stack
from tokenreduce.errors import UnsupportedModelError

from .prenorm import Parts
from .tiny import LABELS, VISION, pixels, tiny
from .towers import Family, Head, TowerAdapter

PARTS = Parts(
    "attention",
    "norm1",
    "norm2",
    "o_proj",
    "num_attention_heads",
    "scaling",
    "attention_dropout",
    after1=("layer_scale1", "drop_path"),
    after2=("layer_scale2", "drop_path"),
)
PLAIN = {Dinov2Model: Head("full"), Dinov2ForImageClassification: Head("repeated")}
REGISTERS = {Dinov2WithRegistersModel: Head("full"), Dinov2WithRegistersForImageClassification: Head("repeated")}
BACKBONES = (Dinov2Backbone, Dinov2WithRegistersBackbone)


class Dinov2(TowerAdapter):
    """A ``Dinov2Model``, with registers or without, bare, under its classifier, or under a head of your own."""

    families = (
        Family(Dinov2Model, Dinov2Encoder, Dinov2Layer, PARTS, 1, "layer", PLAIN),
        Family(
            Dinov2WithRegistersModel,
            Dinov2WithRegistersEncoder,
            Dinov2WithRegistersLayer,
            PARTS,
            1,
            "layer",
            REGISTERS,
            antialias=True,
        ),
    )

    def accepts(self, model: nn.Module) -> bool:
        return any(isinstance(module, BACKBONES) for module in model.modules()) or super().accepts(model)

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        for module in model.modules():
            if isinstance(module, BACKBONES):
                raise UnsupportedModelError(
                    f"{type(module).__name__} makes feature maps of the tokens between blocks, where all of them must "
                    "be at their places; use the Model class and reshape its last_hidden_state"
                )
        return super().stacks(model)

    def prefix(self, family: Family, tower: PreTrainedModel) -> int:
        return family.prefix + int(getattr(tower.config, "num_register_tokens", 0))

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {kind.__name__: partial(_example, kind) for kind in (*PLAIN, *REGISTERS)}


def _example(kind: type[nn.Module]) -> Example:
    config = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config |= {"mlp_ratio": 2, **LABELS}
    if kind in REGISTERS:
        return Example(
            tiny(kind, Dinov2WithRegistersConfig(**config, num_register_tokens=3)), {"pixel_values": pixels()}
        )
    return Example(tiny(kind, Dinov2Config(**config)), {"pixel_values": pixels()})
