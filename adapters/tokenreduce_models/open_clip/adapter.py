"""Which models of open_clip are taken, and why text towers are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from open_clip import CLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import MultimodalTransformer, TextTransformer, VisionTransformer
from torch import nn

from tokenreduce.backbones import Adapter, Example, Size, Stack, pair
from tokenreduce.errors import UnsupportedModelError

from .examples import EXAMPLES
from .sizes import check_visual, resize_visual
from .vision import VisionStack

TOWERS = (VisionTransformer, TimmModel, ModifiedResNet)
READ_AT = {
    "argmax": "at the position of the end-of-text token",
    "eos": "at the position of the end-of-text token",
    "first": "at the first position",
    "last": "at the last position",
}


class OpenClip(Adapter):
    """CLIP, CustomTextCLIP, CoCa, a bare vision tower, or a model of your own with one tower inside."""

    def accepts(self, model: nn.Module) -> bool:
        return type(model).__module__.startswith("open_clip.") or bool(_towers(model))

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        towers = _towers(model)
        if len(towers) != 1:
            found = f"holds {len(towers)} vision towers; attach to one of them" if towers else _reason(model)
            raise UnsupportedModelError(f"{type(model).__name__} {found}")
        tower = towers[0]
        if isinstance(tower, ModifiedResNet):
            raise UnsupportedModelError(
                "the vision tower cannot be reduced: open_clip's ModifiedResNet is a convolutional network without "
                "tokens; take a model with a ViT tower, such as ViT-B-16"
            )
        if isinstance(tower, TimmModel):
            from .trunk import trunk_stack

            return {"vision": trunk_stack(tower)}
        return {"vision": VisionStack(tower)}

    def refusals(self, model: nn.Module) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for module in model.modules():
            if isinstance(module, CLIP):
                reasons["text"] = text_reason(module.attn_mask is not None, module.text_pool_type)
            elif isinstance(module, TextTransformer):
                pool = "last" if module.cls_emb is not None else module.pool_type
                reasons["text"] = text_reason(module.attn_mask is not None, pool)
            elif isinstance(module, HFTextEncoder):
                reasons["text"] = "it is a text encoder, whose padding mask needs every token at its place"
            elif isinstance(module, MultimodalTransformer):
                reasons["text_decoder"] = "it is causal and predicts a word at every position"
        return reasons

    def patch_size(self, model: nn.Module) -> Size | None:
        tower = _towers(model)[0]
        if isinstance(tower, TimmModel):
            from .trunk import trunk_patch

            return trunk_patch(tower)
        return pair(tower.patch_size)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        tower = _towers(model)[0]
        check: Callable[..., Any] = check_visual
        resize: Callable[..., None] = partial(resize_visual, antialias=True)  # as open_clip does when it loads weights
        if isinstance(tower, TimmModel):
            from .trunk import check_trunk, resize_trunk

            check, resize = check_trunk, resize_trunk
        check(tower, height, width)
        copied = copy.deepcopy(model)
        resize(_towers(copied)[0], height, width)
        return copied

    def examples(self) -> dict[str, Callable[[], Example]]:
        return dict(EXAMPLES)


def text_reason(causal: bool, pool: str) -> str:
    """Why a text tower needs every token at its place."""
    mask = "its causal mask needs every token at its place" if causal else ""
    read = f"its features are read {READ_AT[pool]}" if pool in READ_AT else "its features are those of every token"
    return f"{mask}, and {read}" if mask else read


def _towers(model: nn.Module) -> list[VisionTransformer | TimmModel | ModifiedResNet]:
    return [module for module in model.modules() if isinstance(module, TOWERS)]


def _reason(model: nn.Module) -> str:
    """Why a model of open_clip without a vision tower is not supported."""
    texts = (TextTransformer, HFTextEncoder, MultimodalTransformer)
    if isinstance(model, texts):
        return "is a text tower: its mask, and the position that is read, need every token at its place"
    return "holds no vision tower of open_clip; attach to its own tower (model.visual)"
