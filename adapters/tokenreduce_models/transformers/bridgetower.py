"""BridgeTower: METER's successor. Before each level, bridges add the towers' own features to both streams.

The towers run on all their tokens; what comes over a bridge is reduced as its stream was. ``forward`` of
``BridgeTowerModel`` is replaced, and proved against the original on a small input at attach.

Axes: B batch, T text tokens, N image tokens, C width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BridgeTowerConfig
from transformers.models.bridgetower.modeling_bridgetower import (
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    BridgeTowerModel,
    BridgeTowerModelOutput,
)

from tokenreduce.backbones import Adapter, Example, Pass, Stack, device_of, evaluating
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from .bert import CoAttention, Plain, additive, token_type
from .sizes import check_embeddings, native_size, resize_embeddings

TOLERANCE = 1e-4


class BridgeTowerStack(CoAttention):
    """The levels of co-attention; the image block sees the text as it was before the level."""

    def __init__(self, model: BridgeTowerModel, pooled: bool) -> None:
        super().__init__(model.cross_modal_text_layers, model.cross_modal_image_layers)
        self.model = self.module = model
        self.output = "reduced" if pooled else "text"

    def forward(
        self,
        run: Pass,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_token_type_idx: int | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> Any:
        check_call(self.model.config, kwargs)
        if input_ids is None or inputs_embeds is not None:
            raise UnsupportedCallError("BridgeTowerModel takes input_ids, not inputs_embeds")
        model = self.model
        as_dict = kwargs.get("return_dict")
        as_dict = model.config.return_dict if as_dict is None else as_dict
        towers = Towers(model, input_ids, attention_mask, pixel_values, image_embeds, interpolate_pos_encoding)
        kinds = [token_type(model.token_type_embeddings, kind, input_ids) for kind in (0, image_token_type_idx or 1)]
        text = model.cross_modal_text_layernorm(towers.text(0) + kinds[0])
        image = model.cross_modal_image_layernorm(towers.image(0) + kinds[1])
        real = None if attention_mask is None else attention_mask.bool()
        run.start(text, {"text": text.shape[1]}, real)
        run.start(image, {"image": image.shape[1]})
        for level, (text_block, image_block) in enumerate(self.levels):
            if level:
                towers.next()
                own = run.follow("text", towers.text(level) + kinds[0])
                text = link(model.cross_modal_text_link_tower, level - 1)(own, text, None)
                own = run.follow("image", towers.image(level) + kinds[1])
                image = link(model.cross_modal_image_link_tower, level - 1)(own, image, None)
            old = text
            text, image = run.block(text_block, text, image)
            seen = run.follow("text", old, since=text_block)
            image, _ = run.block(image_block, image, seen)
            text = run.follow("text", text, since=image_block)
        text, image = run.finish(text, image)
        pooled = model.get_cls_features(text, image)
        output = BridgeTowerModelOutput(text_features=text, image_features=image, pooler_output=pooled)
        return output if as_dict else output.to_tuple()

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.model, "forward", BridgeTowerModel.forward)]

    def prove(self) -> None:
        model, config = self.model, self.model.config
        like, size = model.cross_modal_text_layernorm.weight, native_size(model.vision_model.visual.embeddings)
        generator = torch.Generator().manual_seed(0)
        device = device_of(model.text_model)
        pixels = torch.randn(2, 3, *size, generator=generator).to(device, like.dtype)
        ids = torch.randint(3, config.text_config.vocab_size, (2, 5), generator=generator).to(device)
        mask = torch.ones_like(ids)
        mask[1, 3:] = 0
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "return_dict": True}
        quiet: dict[str, Any] = {"output_hidden_states": False, "output_attentions": False}
        with evaluating(model):
            expected = BridgeTowerModel.forward(model, **inputs)
            got = self.forward(Plain(self), **quiet, **inputs)
        tolerance = TOLERANCE if like.dtype in (torch.float32, torch.float64) else 5e-2
        pairs = [(got[name], expected[name]) for name in ("pooler_output", "image_features")]
        pairs.append((got.text_features[mask.bool()], expected.text_features[mask.bool()]))
        if not all(torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance) for ours, theirs in pairs):
            raise UnsupportedModelError("BridgeTowerModel.forward no longer computes what this adapter assumes")


class Towers:
    """Both towers, run layer by layer beside the levels; ``text`` and ``image`` give what a level takes of them."""

    def __init__(
        self,
        model: BridgeTowerModel,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        interpolate: bool,
    ) -> None:
        self.model, self.visual = model, model.vision_model.visual
        self.layers, self.blocks = model.text_model.encoder.layer, self.visual.transformer.resblocks
        self.text_states = model.text_model.embeddings(input_ids=input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.mask = additive(mask.bool(), self.text_states)
        self.dtype = model.vision_model.dtype
        if image_embeds is not None:
            image = image_embeds.permute(1, 0, 2)
        elif pixel_values is not None:
            image = self.visual.forward_pre(pixel_values.type(self.dtype), interpolate_pos_encoding=interpolate)
        else:
            raise UnsupportedCallError("expected pixel_values or image_embeds, got neither; call with pixel_values=...")
        self.image_states, self.depth = image, 0
        for _ in range(len(self.layers) - model.config.num_hidden_layers + 1):
            self.next()

    def next(self) -> None:
        """One layer further in both towers."""
        self.text_states = self.layers[self.depth](self.text_states, self.mask)
        self.image_states = self.blocks[self.depth](self.image_states).type(self.dtype)
        self.depth += 1

    def text(self, level: int) -> Tensor:
        tokens: Tensor = self.model._apply_text_transform(self.text_states, level)
        return tokens

    def image(self, level: int) -> Tensor:
        tokens: Tensor = self.model._apply_image_transform(self.visual.forward_post(self.image_states), level)
        return tokens


def link(towers: nn.Module, index: int) -> nn.Module:
    """The bridge before a level: one of a list, or the one that all share."""
    return towers[index] if isinstance(towers, nn.ModuleList) else towers


def check_call(config: Any, kwargs: dict[str, Any]) -> None:
    """Raise UnsupportedCallError for outputs that a reduced pass does not have."""
    for name in ("output_hidden_states", "output_attentions"):
        if kwargs.get(name, getattr(config, name, False)):
            reason = "attention is fused" if name == "output_attentions" else "states of both towers are not collected"
            raise UnsupportedCallError(f"{name}=True: {reason} while a reducer is attached; detach() first")


POOLED = (BridgeTowerForImageAndTextRetrieval,)


class BridgeTower(Adapter):
    """A ``BridgeTowerModel``, bare, under one of its heads, or under a head of your own."""

    def accepts(self, model: nn.Module) -> bool:
        return any(isinstance(module, BridgeTowerModel) for module in model.modules())

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = [module for module in model.modules() if isinstance(module, BridgeTowerModel)]
        if len(found) > 1:
            raise UnsupportedModelError(f"{type(model).__name__} holds {len(found)} BridgeTowers; attach to one")
        if any(isinstance(module, BridgeTowerForContrastiveLearning) for module in model.modules()):
            raise UnsupportedModelError(
                "BridgeTowerForContrastiveLearning reads the hidden states of both towers, which a reduced pass does "
                "not collect"
            )
        return {"cross": BridgeTowerStack(found[0], any(isinstance(module, POOLED) for module in model.modules()))}

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        check_embeddings(_tower(model).vision_model.visual.embeddings, height, width)
        copied = copy.deepcopy(model)
        tower = _tower(copied)
        resize_embeddings(tower.vision_model.visual.embeddings, tower.config.vision_config, height, width)
        return copied

    def refusals(self, model: nn.Module) -> dict[str, str]:
        reason = "its layers feed a bridge each, and every bridge needs as many tokens as its stream"
        return {"vision": reason, "text": reason}

    def examples(self) -> dict[str, Callable[[], Example]]:
        kinds = (BridgeTowerModel, BridgeTowerForImageAndTextRetrieval, BridgeTowerForMaskedLM)
        return {kind.__name__: partial(_example, kind) for kind in kinds}


def _tower(model: nn.Module) -> BridgeTowerModel:
    return next(module for module in model.modules() if isinstance(module, BridgeTowerModel))


def _example(kind: type[nn.Module]) -> Example:
    text = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
        "initializer_factor": 1,
    }
    vision = {"hidden_size": 64, "num_hidden_layers": 5, "patch_size": 8, "image_size": 48}
    config = BridgeTowerConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, text_config=text, vision_config=vision
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
        ids, pixels = torch.randint(3, 60, (2, 12)), torch.randn(2, 3, 48, 48)
    mask = torch.ones_like(ids)
    ids[1, 8:], mask[1, 8:] = 1, 0
    return Example(model, {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask})
