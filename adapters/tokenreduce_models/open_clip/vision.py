"""open_clip's own ``VisionTransformer``. Only the forward of its ``transformer`` is replaced.

Tokens go into and out of that forward as (B, N, C), whichever layout its blocks work in.

Axes: B batch, N tokens, C width, D width of the features shared with the text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from open_clip.transformer import LayerNormFp32, Transformer, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenreduce.backbones import BlockView, Output, Pass, Stack, current
from tokenreduce.errors import UnsupportedCallError
from tokenreduce_models.patch_dropout import drops

from .blocks import view_of


def output_of(visual: VisionTransformer) -> Output:
    """What follows the blocks expects.

    Pooling over tokens (a mean, queries) must see a merged token as often as its size. The same holds for the
    tokens that ``output_tokens`` hands to CoCa's decoder: repeated in cross-attention, each keeps its weight.
    """
    if visual.attn_pool is not None or visual.pool_type == "avg":
        return "repeated"
    if visual.pool_type == "tok":
        return "repeated" if visual.output_tokens else "reduced"
    return "full"


class VisionStack(Stack):
    """The blocks of a ``VisionTransformer``."""

    name = "vision"
    prefix = {"image": 1}
    drops_patches = current(lambda stack: drops(stack.visual.patch_dropout))

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual, self.module = visual, visual.transformer
        self.blocks = list(visual.transformer.resblocks)
        self.output = output_of(visual)
        pooled = visual.attn_pool is not None
        self.readout = 0 if visual.pool_type == "tok" and not pooled else None
        self.guidable = not pooled
        self.head_rows = int(self.output == "reduced" and self.readout == 0)
        self.passing = (visual.transformer, visual.ln_post)

    def view(self, block: nn.Module) -> BlockView:
        return view_of(block)

    def forward(self, run: Pass, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if attn_mask is not None:
            raise UnsupportedCallError(
                "attn_mask was given, but a mask over all tokens does not fit fewer tokens; call without one, or "
                "handle.detach() first"
            )
        if output_of(self.visual) != self.output:
            raise UnsupportedCallError(
                "output_tokens or pool_type of the vision tower was changed after attach; handle.detach() and "
                "attach again"
            )
        run.start(x, {"image": x.shape[1]})
        return run(x)

    def shared_space(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, D)."""
        if not self.guidable:
            return super().shared_space(x)
        shared: Tensor = self.visual.ln_post(x)
        return shared if self.visual.proj is None else shared @ self.visual.proj

    def pack(self, x: Tensor) -> Tensor:
        return x if self.visual.transformer.batch_first else x.transpose(0, 1)

    def unpack(self, returned: Tensor) -> Tensor:
        return self.pack(returned)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        for norm in block.modules():
            if isinstance(norm, LayerNormFp32):
                norm.float()  # it computes in float32 whatever it is given
        return self.unpack(block.forward(self.pack(x)))

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        if not self.visual.transformer.grad_checkpointing:
            return None
        return partial(checkpoint, use_reentrant=False)

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        names = ("forward", "_pool", "_global_pool")
        pooling = [(self.visual, name, getattr(VisionTransformer, name)) for name in names]
        return [(self.module, "forward", Transformer.forward), *pooling]
