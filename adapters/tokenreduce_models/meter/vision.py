"""METER's vision tower as a stack: open_clip's tower, or the one inside the published code.

Axes: B batch, N tokens (class token first), C width.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from tokenreduce.backbones import BlockView, Pass, Projected, Stack, device_of, evaluating
from tokenreduce.errors import UnsupportedModelError
from tokenreduce_models.open_clip.blocks import ResidualView
from tokenreduce_models.open_clip.vision import VisionStack


class MeterVisionStack(VisionStack):
    """open_clip's tower inside METER: its tokens go on to the co-attention levels, however many they are."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__(visual)
        self.output, self.readout, self.guidable = "reduced", 0, False
        self.reads_all = True

    def forward(self, run: Pass, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        run.start(x, {"image": x.shape[1]})
        return run(x)


class OriginalView(ResidualView):
    """A block of the published code: as open_clip's, without layer scale."""

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = x + self.mixed(context)
        return out

    def mlp(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.block.mlp(self.block.ln_2(x))
        return out


class OriginalVisionStack(Stack):
    """The tower of the published code, whose blocks take tokens as (N, B, C)."""

    name = "vision"
    prefix = {"image": 1}
    readout = 0
    reads_all = True

    def __init__(self, visual: nn.Module) -> None:
        transformer: Any = visual.transformer  # of a class of the published code
        self.module = transformer
        self.blocks = list(transformer.resblocks)

    def view(self, block: nn.Module) -> BlockView:
        if not all(hasattr(block, part) for part in ("ln_1", "attn", "ln_2", "mlp")) or not isinstance(
            block.attn, nn.MultiheadAttention
        ):
            raise UnsupportedModelError(f"{type(block).__name__} is not a block of CLIP's vision tower")
        return OriginalView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        return self.unpack(block.forward(x.transpose(0, 1)))

    def pack(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)

    def unpack(self, returned: Tensor) -> Tensor:
        return returned.transpose(0, 1)

    def forward(self, run: Pass, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = x.transpose(0, 1)
        run.start(x, {"image": x.shape[1]})
        return run(x).transpose(0, 1)

    def prove(self) -> None:
        first: Any = self.blocks[0]
        like = first.ln_1.weight
        x = torch.randn(5, 2, len(like), generator=torch.Generator().manual_seed(0)).to(device_of(first), like.dtype)
        with evaluating(self.module):
            expected = self.module(x)
            for block in self.blocks:
                x = block(x)
        if not torch.equal(expected, x):
            raise UnsupportedModelError(f"{type(self.module).__name__} does more than run its blocks in turn")
