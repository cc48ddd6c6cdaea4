"""BLIP's text encoder as a stack: text that attends to image tokens, the same ones in every layer.

Axes: B batch, T text tokens, N image tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.blip.modeling_blip_text import BlipTextEncoder, BlipTextLayer, BlipTextModel

from tokenreduce.backbones import BlockView, Pass, Role
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from .bert import BertView, additive
from .layers import LayerStack
from .roberta import CACHES, real_tokens


class BlipTextStack(LayerStack):
    """The layers of a text encoder. The head reads the text's first token; nobody reads the image's class token."""

    name = "cross"
    prefix = {"text": 1, "image": 0}
    sequences = (("text",), ("image",))
    readout = 0
    padded = True
    padded_memory = False  # images are whole, and the library's cross-attention takes no mask (transformers 5.23)
    output = "text"  # a decoder, or the caller, reads every text token

    def __init__(self, text: BlipTextModel) -> None:
        self.text, self.module = text, text.encoder
        self.blocks = list(text.encoder.layer)

    def role(self, index: int) -> Role:
        return Role("text", "image")

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, BlipTextLayer) or not hasattr(block, "crossattention"):
            raise UnsupportedModelError(f"{type(block).__name__} is not a BlipTextLayer with cross-attention")
        return BertView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        out: Tensor = block.forward(x, memory, additive(real, x))
        return out

    def forward(
        self,
        run: Pass,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        if encoder_hidden_states is None:
            raise UnsupportedCallError(
                "the text encoder was called without an image (use_itm_head=False?), so there is nothing for the "
                "reducer to see; handle.detach() first, or attach to {'vision': ...}"
            )
        if use_cache or any(kwargs.get(name) is not None for name in CACHES):
            raise UnsupportedCallError("a cache needs every token at its place; call with use_cache=False")
        if kwargs.get("output_attentions"):
            raise UnsupportedCallError("output_attentions=True: attention is fused while attached; detach() first")
        text, image = hidden_states, encoder_hidden_states
        run.start(text, {"text": text.shape[1]}, real_tokens(attention_mask, text))
        run.start(image, {"image": image.shape[1]})
        for index in range(len(self.blocks)):
            text, image = run.block(index, text, image)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=run.finish(text, image)[0])

    def replacements(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        return [(self.text, "forward", EncoderOnly(self.text))]

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.module, "forward", BlipTextEncoder.forward), (self.text, "forward", BlipTextModel.forward)]


class EncoderOnly:
    """``BlipTextModel.forward``, refused as a decoder: a causal mask needs every token at its place."""

    def __init__(self, text: BlipTextModel) -> None:
        self.text = text

    def __call__(self, *args: Any, is_decoder: bool | None = False, **kwargs: Any) -> Any:
        if is_decoder:
            raise UnsupportedCallError("is_decoder=True: a causal mask needs every token at its place; detach() first")
        return type(self.text).forward(self.text, *args, **kwargs)
