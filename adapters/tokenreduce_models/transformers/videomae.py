"""VideoMAE of transformers: tubes of a video as tokens, no class token.

The classifier takes the mean of all tokens, where a merged one counts as often as it has members. The tokens of a
bare ``VideoMAEModel``, and those that the decoder reads, all come back to their places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, VideoMAEConfig
from transformers.models.videomae.modeling_videomae import (
    VideoMAEEncoder,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAELayer,
    VideoMAEModel,
)

from tokenreduce.backbones import BlockView, Example, Projected, Size, current, pair
from tokenreduce.errors import UnsupportedModelError

from .prenorm import Parts, eager
from .tiny import LABELS, VISION, tiny
from .towers import Family, Head, TowerAdapter, TowerStack

PARTS = Parts("attention", "layernorm_before", "layernorm_after", "", "", "", "")
MEAN = Head("repeated", class_token=False)
HEADS = {
    VideoMAEModel: Head("full", class_token=False),
    VideoMAEForVideoClassification: MEAN,
    VideoMAEForPreTraining: Head("full", class_token=False, whole=True),
}


class VideoMAEView(BlockView):
    """``VideoMAELayer``: pre-norm attention and MLP."""

    scale = current(lambda view: view.attn.scaling)
    dropout = current(lambda view: view.attn.dropout_prob)
    fused = current(lambda view: not eager(view.attn))
    attention_parts = current(lambda view: [view.layer.attention])
    mlp_parts = current(lambda view: [view.layer.intermediate, view.layer.output])

    def __init__(self, layer: VideoMAELayer) -> None:
        self.layer = layer

    @property
    def attn(self) -> Any:
        """The attention that the layer has now."""
        return self.layer.attention.attention

    def project(self, x: Tensor) -> Projected:
        attn, x = self.attn, self.layer.layernorm_before(x)
        heads = (
            part(x).unflatten(-1, (attn.num_attention_heads, -1)).transpose(1, 2)
            for part in (attn.query, attn.key, attn.value)
        )
        return Projected(*heads)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = self.layer.attention.output(context, x) + x
        return out

    def mlp(self, x: Tensor) -> Tensor:
        layer = self.layer
        out: Tensor = layer.output(layer.intermediate(layer.layernorm_after(x)), x)
        return out


class VideoMAEStack(TowerStack):
    """The encoder of a ``VideoMAEModel``."""

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, VideoMAELayer):
            raise UnsupportedModelError(f"{type(block).__name__} is not a VideoMAELayer")
        return VideoMAEView(block)

    def plain(self, block: nn.Module, x: Tensor, mask: Tensor | None = None, **given: Any) -> Tensor:
        layer: Any = block
        config = layer.attention.attention.config  # a copy's: attach probes copies of blocks
        if any(kind in str(config._attn_implementation) for kind in ("flash", "flex")):
            config._attn_implementation = "eager"  # those kernels do not take float64
        out: Tensor = layer.forward(x)
        return out


class VideoMAE(TowerAdapter):
    """A ``VideoMAEModel``, bare, under its classifier or decoder, or under a head of your own."""

    families = (Family(VideoMAEModel, VideoMAEEncoder, VideoMAELayer, PARTS, 0, "layer", HEADS),)
    stack = VideoMAEStack

    def patch_size(self, model: nn.Module) -> Size | None:
        return pair(self.towers(model)[0][1].config.patch_size)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        tower = self.towers(model)[0][1]
        raise UnsupportedModelError(
            f"the positions of {type(tower).__name__} are those of tubes of a video, in a table for its own size; it "
            "cannot be resized"
        )

    def head(self, model: nn.Module, family: Family, tower: PreTrainedModel) -> Head:
        found = super().head(model, family, tower)
        if found is MEAN and not tower.config.use_mean_pooling:
            return Head("full")  # the first token is read, which is a tube like the others
        return found

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {kind.__name__: partial(_example, kind) for kind in HEADS}


def _example(kind: type[nn.Module]) -> Example:
    config = VideoMAEConfig(
        **VISION,
        **LABELS,
        num_frames=4,
        tubelet_size=2,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )
    inputs = {"pixel_values": torch.randn(2, 4, 3, 40, 40, generator=torch.Generator().manual_seed(1))}
    if kind is VideoMAEForPreTraining:
        hidden = torch.rand(2, 50, generator=torch.Generator().manual_seed(2)).argsort(dim=1) < 25
        inputs["bool_masked_pos"] = hidden
    return Example(tiny(kind, config), inputs)
