"""ViLT of transformers: text and image side by side in one sequence.

Three forwards are replaced while attached. ``ViltModel``: images without a pixel mask are embedded in raster
order, without the host-side loop. ``ViltEmbeddings``: patches of masked images come back in raster order
(the original shuffles them), and the mask goes on as (B, 1, T, N), which also tells the encoder T.
``ViltEncoder``: runs the blocks.

Axes: B batch, T text tokens, n image tokens, N = T + n, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.vilt.modeling_vilt import (
    ViltEmbeddings,
    ViltEncoder,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForQuestionAnswering,
    ViltLayer,
    ViltModel,
)

from tokenreduce.backbones import (
    Adapter,
    BlockView,
    Example,
    Pass,
    Projected,
    Stack,
    check_size,
    current,
    device_of,
    loaded,
    pair,
)
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from .bert import additive, project
from .layers import LayerStack

POOLED = (ViltForQuestionAnswering, ViltForImagesAndTextClassification, ViltForImageAndTextRetrieval)


class ViltView(BlockView):
    """One ``ViltLayer``: pre-norm attention and MLP."""

    dropout = current(lambda view: view.layer.attention.attention.dropout.p)
    attention_parts = current(lambda view: [view.layer.attention])
    mlp_parts = current(lambda view: [view.layer.intermediate, view.layer.output])

    def __init__(self, layer: ViltLayer) -> None:
        self.layer = layer

    def project(self, x: Tensor) -> Projected:
        x = self.layer.layernorm_before(x)
        return project(self.layer.attention.attention, x, x)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = self.layer.attention.output(context, x) + x
        return out

    def mlp(self, x: Tensor) -> Tensor:
        layer = self.layer
        out: Tensor = layer.output(layer.intermediate(layer.layernorm_after(x)), x)
        return out


class ViltStack(LayerStack):
    """The encoder of a ``ViltModel``. The head reads the text's [CLS]; nobody reads the image's class token."""

    name = "encoder"
    prefix = {"text": 1, "image": 0}
    readout = 0
    padded = True

    def __init__(self, vilt: ViltModel, pooled: bool, rows: int = 0) -> None:
        self.vilt, self.module, self.blocks = vilt, vilt.encoder, list(vilt.encoder.layer)
        self.output = "reduced" if pooled else "text"
        self.head_rows, self.passing = rows, (vilt, vilt.encoder, vilt.layernorm)

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, ViltLayer):
            raise UnsupportedModelError(f"{type(block).__name__} is not a ViltLayer")
        return ViltView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        return self.unpack(block.forward(x, None if real is None else additive(real, x)))

    def pack(self, x: Tensor) -> tuple[Tensor]:
        return (x,)

    def unpack(self, returned: tuple[Tensor, ...]) -> Tensor:
        return returned[0]

    def forward(
        self,
        run: Pass,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> Any:
        if output_attentions:
            raise UnsupportedCallError(
                "output_attentions=True: attention is fused and its matrices are never made while a reducer is "
                "attached; detach() first, or leave it False"
            )
        text, total = attention_mask.shape[2], hidden_states.shape[1]
        real = attention_mask[:, 0, 0].bool() if attention_mask.shape[3] == total else None
        run.start(hidden_states, {"text": text, "image": total - text}, real)
        seen: list[Tensor] | None = [] if output_hidden_states else None
        x = run(hidden_states, seen)
        states = None if seen is None else tuple(seen)
        if not return_dict:
            return tuple(value for value in (x, states) if value is not None)
        return BaseModelOutput(last_hidden_state=x, hidden_states=states)

    def replacements(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        embeddings = self.vilt.embeddings
        return [
            (self.vilt, "forward", ModelForward(self.vilt)),
            (embeddings, "forward", EmbeddingsForward(embeddings)),
            (embeddings, "visual_embed", partial(raster_embed, embeddings)),
        ]

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        embeddings = self.vilt.embeddings
        return [
            (self.vilt, "forward", ViltModel.forward),
            (embeddings, "forward", ViltEmbeddings.forward),
            (embeddings, "visual_embed", ViltEmbeddings.visual_embed),
            (self.module, "forward", ViltEncoder.forward),
        ]

    @torch.no_grad()
    def prove(self) -> None:
        embeddings, config = self.vilt.embeddings, self.vilt.config
        kernel = embeddings.patch_embeddings.projection
        height, width = 2 * kernel.kernel_size[0], 3 * kernel.kernel_size[1]
        like, device = kernel.weight, device_of(embeddings)
        noise = torch.randn(1, config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
        pixels, mask = noise.to(device, like.dtype), torch.ones(1, height, width, dtype=torch.long, device=device)
        state = torch.random.get_rng_state()
        training = embeddings.dropout.training
        embeddings.dropout.training = False
        try:
            with loaded(embeddings):
                expected, _, _ = raster_embed(embeddings, pixels, mask)
                got = fast_embed(embeddings, pixels)
        finally:
            embeddings.dropout.training = training
            torch.random.set_rng_state(state)
        tolerance = 1e-4 if like.dtype == torch.float32 else 5e-2
        if got.shape != expected.shape or not torch.allclose(got, expected, rtol=tolerance, atol=tolerance):
            raise UnsupportedModelError("ViltEmbeddings.visual_embed no longer computes what this adapter assumes")


def raster_embed(
    embeddings: ViltEmbeddings, pixel_values: Tensor, pixel_mask: Tensor, max_image_length: int = 200
) -> tuple[Tensor, Tensor, Any]:
    """The original embedding, its patches then put in raster order, padding last."""
    x, mask, (place, size) = ViltEmbeddings.visual_embed(embeddings, pixel_values, pixel_mask, max_image_length)
    rank = place[..., 0] * size[1] + place[..., 1] + (1 - mask[:, 1:]) * size[0] * size[1]
    order = rank.argsort(dim=1, stable=True)
    place = place.gather(1, order.unsqueeze(-1).expand_as(place))
    order = torch.cat([torch.zeros_like(order[:, :1]), order + 1], dim=1)
    return x.gather(1, order.unsqueeze(-1).expand_as(x)), mask.gather(1, order), (place, size)


def fast_embed(embeddings: ViltEmbeddings, pixel_values: Tensor) -> Tensor:
    """Image tokens (B, n, C), class token first, of images without padding."""
    patches = embeddings.patch_embeddings(pixel_values)
    height, width = patches.shape[-2:]
    config, positions = embeddings.config, embeddings.position_embeddings
    side = config.image_size // config.patch_size
    grid = torch.unflatten(positions[:, 1:].transpose(1, 2), -1, (side, side))
    if (height, width) != (side, side):
        grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
    x = (patches + grid).flatten(2).transpose(1, 2)
    first = (embeddings.cls_token + positions[:, :1]).expand(x.shape[0], -1, -1)
    tokens: Tensor = embeddings.dropout(torch.cat([first, x], dim=1))
    return tokens


class ModelForward:
    """``ViltModel.forward``; images without a pixel mask are embedded here, and handed on as embeddings."""

    def __init__(self, vilt: ViltModel) -> None:
        self.vilt = vilt

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        vilt, embeddings = self.vilt, self.vilt.embeddings
        if pixel_values is not None and image_embeds is None and self._unpadded(pixel_values, pixel_mask):
            with loaded(embeddings):
                image_embeds = fast_embed(embeddings, pixel_values)
            pixel_mask = image_embeds.new_ones(image_embeds.shape[:2], dtype=torch.long)
            pixel_values = None
        return ViltModel.forward(
            vilt,
            input_ids,
            attention_mask,
            token_type_ids,
            pixel_values,
            pixel_mask,
            inputs_embeds,
            image_embeds,
            **kwargs,
        )

    def _unpadded(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> bool:
        limit, kernel = self.vilt.config.max_image_length, self.vilt.embeddings.patch_embeddings.projection.kernel_size
        patches = (pixel_values.shape[-2] // kernel[0]) * (pixel_values.shape[-1] // kernel[1])
        if isinstance(limit, int) and 0 <= limit < patches:
            return False  # the original picks patches at random
        return pixel_mask is None or (not torch.compiler.is_compiling() and bool(pixel_mask.all()))


class EmbeddingsForward:
    """``ViltEmbeddings.forward``, whose mask comes back as (B, 1, T, N): real tokens, once per text token."""

    def __init__(self, embeddings: ViltEmbeddings) -> None:
        self.embeddings = embeddings

    def __call__(self, input_ids: Tensor | None, attention_mask: Tensor, *args: Any, **kwargs: Any) -> Any:
        x, mask = ViltEmbeddings.forward(self.embeddings, input_ids, attention_mask, *args, **kwargs)
        return x, mask.bool()[:, None, None].expand(-1, -1, attention_mask.shape[1], -1)


class Vilt(Adapter):
    """A ``ViltModel``, bare, under one of its heads, or under a head of your own."""

    def accepts(self, model: nn.Module) -> bool:
        return any(isinstance(module, ViltModel) for module in model.modules())

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = [module for module in model.modules() if isinstance(module, ViltModel)]
        if len(found) > 1:
            raise UnsupportedModelError(f"{type(model).__name__} holds {len(found)} ViltModels; attach to one of them")
        own = any(isinstance(model, kind) and type(model).forward is kind.forward for kind in POOLED)
        return {"encoder": ViltStack(found[0], isinstance(model, POOLED), int(own))}

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        """The model itself: ViLT interpolates its position embeddings on every pass."""
        vilt = next(module for module in model.modules() if isinstance(module, ViltModel))
        patch, native = pair(vilt.config.patch_size), pair(vilt.config.image_size)
        rows, columns = check_size(height, width, patch, native)
        limit = vilt.config.max_image_length
        if isinstance(limit, int) and 0 <= limit < rows * columns and (height, width) != native:
            raise UnsupportedModelError(
                f"this ViLT picks {limit} of an image's patches at random, and {height} x {width} pixels have "
                f"{rows * columns}; set model.config.max_image_length = -1 to keep all"
            )
        return model

    def examples(self) -> dict[str, Callable[[], Example]]:
        from .vilt_examples import EXAMPLES

        return dict(EXAMPLES)
