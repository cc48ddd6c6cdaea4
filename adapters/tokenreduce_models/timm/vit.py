"""timm ``VisionTransformer``: ViT, DeiT, DeiT-3, DINOv2, SigLIP and CLIP towers, and their like.

Axes: B batch, N tokens, C width, H heads, d head width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from tokenreduce.backbones import (
    Adapter,
    BlockView,
    Example,
    Pass,
    Projected,
    Size,
    Stack,
    check_size,
    current,
    foreign_holders,
    pair,
)
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.patch_dropout import drops

from .reader import Loop, head_rows, output_of, runs_in_a_loop, stand_in
from .windows import grid_bound, reason

FEATURES = "timm.models._features"  # where the modules are defined that make feature maps


class PreNormView(BlockView):
    """``Block``: norm, attention, layer scale, drop path, residual; the same for the MLP."""

    scale = current(lambda view: None if view.attn.fused_attn else view.attn.scale)  # fused, timm passes none
    dropout = current(lambda view: view.attn.attn_drop.p)
    fused = current(lambda view: view.attn.fused_attn)
    direct = current(lambda view: view.attn.fused_attn)
    attention_parts = current(lambda view: [m for m in (view.attn.qkv, view.gate, view.attn.proj) if m is not None])
    mlp_parts = current(lambda view: [view.block.mlp])

    def __init__(self, block: Block | ResPostBlock) -> None:
        self.block = block

    @property
    def attn(self) -> Attention:
        return self.block.attn

    @property
    def gate(self) -> nn.Module | None:
        """The projection that gates what attention gives, in newer versions of timm, where there is one."""
        return getattr(self.attn, "gate", None)

    def normed(self, x: Tensor) -> Tensor:
        out: Tensor = self.block.norm1(x)
        return out

    def project(self, x: Tensor) -> Projected:
        attn, x = self.attn, self.normed(x)
        heads = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        gating = self.gate
        gate = None if gating is None else gating(x).sigmoid()
        return Projected(attn.q_norm(query), attn.k_norm(key), value, gate)

    def mixed(self, context: Tensor, gate: Tensor | None) -> Tensor:
        attn = self.attn
        norm = getattr(attn, "norm", None)
        context = context if norm is None else norm(context)
        out: Tensor = attn.proj_drop(attn.proj(context if gate is None else context * gate))
        return out

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path1(block.ls1(self.mixed(context, projected.extra)))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return out


class PostNormView(PreNormView):
    """``ResPostBlock``: the norm follows the attention and the MLP."""

    def normed(self, x: Tensor) -> Tensor:
        return x

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path1(block.norm1(self.mixed(context, projected.extra)))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path2(block.norm2(block.mlp(x)))
        return out


class TimmStack(Stack):
    """The blocks of a ``VisionTransformer``; they are an ``nn.Sequential`` whose forward is replaced.

    Args:
        model: the tower.
        by_head: whether nothing around the tower reads its tokens.
        loops: whether its ``forward_features`` calls the blocks one by one.
    """

    name = "vision"

    output = current(lambda stack: output_of(stack.model, stack.by_head))
    head_rows = current(lambda stack: head_rows(stack.model, stack.by_head))
    passing = current(lambda stack: (stack.module, stack.model.norm))
    drops_patches = current(lambda stack: drops(getattr(stack.model, "patch_drop", None)))

    def __init__(self, model: VisionTransformer, by_head: bool = True, loops: bool = False) -> None:
        self.model, self.by_head, self.loops = model, by_head, loops
        self.module = model.blocks
        self.blocks = list(model.blocks)
        self.prefix = {"image": model.num_prefix_tokens}
        self.readout = 0 if model.has_class_token else None

    @property
    def home(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def view(self, block: nn.Module) -> BlockView:
        kind = type(block)
        if isinstance(block, (ParallelScalingBlock, ParallelThingsBlock)):
            raise UnsupportedModelError(
                f"{kind.__name__} computes attention and MLP side by side; there is no place between them to reduce at"
            )
        if not isinstance(block, (Block, ResPostBlock)):
            raise UnsupportedModelError(f"{kind.__name__} is not one of timm's blocks that can be viewed")
        if type(block.attn) is not Attention:
            raise UnsupportedModelError(
                f"{kind.__name__} has {type(block.attn).__name__}, which is not softmax attention over one "
                "query-key product; the engine's attention cannot stand in for it"
            )
        return PostNormView(block) if isinstance(block, ResPostBlock) else PreNormView(block)

    def forward(self, run: Pass, x: Tensor) -> Tensor:
        run.start(x, {"image": x.shape[1]})
        return run(x)

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        if not self.model.grad_checkpointing:
            return None
        return partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.module, "forward", nn.Sequential.forward)]

    def replacements(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        return [(self.model, "forward_features", ForwardFeatures(self.model, self.loops))]


class ForwardFeatures:
    """The model's own ``forward_features``, which must run the stack whole even where it calls the blocks one by one.

    timm does that with gradient checkpointing on, subclasses may always do; on a shallow copy, with the switch off and
    the stack as the only block, the same code calls the stack, which does the checkpointing itself.
    """

    def __init__(self, model: VisionTransformer, loops: bool) -> None:
        self.model, self.loops, self.blocks = model, loops, model.blocks

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        model = self.model
        if model.blocks is not self.blocks:
            raise UnsupportedCallError(
                f"the blocks of {type(model).__name__} were replaced after attach, so nothing would be reduced; call "
                "handle.detach() and attach again"
            )
        if self.loops:
            model = stand_in(model, Loop(model.blocks))
        elif model.grad_checkpointing:
            model = copy.copy(model)
            model.grad_checkpointing = False
        features: Tensor = type(model).forward_features(model, *args, **kwargs)
        return features


class TimmViT(Adapter):
    """A ``VisionTransformer``, or a model with exactly one inside. Others of timm are refused with the reason."""

    def accepts(self, model: nn.Module) -> bool:
        ours = type(model).__module__.startswith("timm.")
        return ours or bool(_towers(model)) or grid_bound(model) is not None

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        towers = _towers(model)
        if len(towers) != 1:
            found = f"holds {len(towers)} towers; attach to one of them" if towers else reason(model)
            raise UnsupportedModelError(f"{type(model).__name__} {found}")
        tower = towers[0]
        if not isinstance(tower.blocks, nn.Sequential):
            raise UnsupportedModelError(f"{type(tower).__name__} keeps its blocks in {type(tower.blocks).__name__}")
        for module in model.modules():
            if type(module).__module__ == FEATURES and any(part is tower for part in module.modules()):
                raise UnsupportedModelError(
                    f"{type(module).__name__} (features_only=True) makes feature maps of the tokens between blocks, "
                    "where all of them must be at their places; create the model without features_only and reshape "
                    "what forward_features gives, attached with restore=True"
                )
        return {"vision": TimmStack(tower, not foreign_holders(model, tower), runs_in_a_loop(tower))}

    def patch_size(self, model: nn.Module) -> Size | None:
        return pair(_towers(model)[0].patch_embed.feat_ratio(as_scalar=False))

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        check_tower(_towers(model)[0], height, width)
        copied = copy.deepcopy(model)
        _towers(copied)[0].set_input_size((height, width))
        return copied

    def examples(self) -> dict[str, Callable[[], Example]]:
        from .examples import EXAMPLES

        return dict(EXAMPLES)


def check_tower(tower: VisionTransformer, height: int, width: int) -> None:
    """Raise UnsupportedModelError or OptionError unless the tower can be set to images of this size."""
    embed = tower.patch_embed
    if not hasattr(embed, "set_input_size") or embed.img_size is None:
        raise UnsupportedModelError(
            f"the patch embedding of {type(tower).__name__} is {type(embed).__name__}, whose input size cannot be set; "
            "timm's PatchEmbed and HybridEmbed have set_input_size"
        )
    check_size(height, width, pair(embed.feat_ratio(as_scalar=False)), pair(embed.img_size))


def _towers(model: nn.Module) -> list[VisionTransformer]:
    return [module for module in model.modules() if isinstance(module, VisionTransformer)]
