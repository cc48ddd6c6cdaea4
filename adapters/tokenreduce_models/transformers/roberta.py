"""RoBERTa's encoder as a stack: one stream of text. Axes: B batch, T text tokens, C width."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.roberta.modeling_roberta import RobertaEncoder, RobertaLayer, RobertaModel

from tokenreduce.backbones import BlockView, Pass
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from .bert import BertView, additive
from .layers import LayerStack

CACHES = ("cache", "past_key_values", "past_key_value")
"""Names under which versions of transformers hand a cache of keys and values to an encoder."""


class RobertaStack(LayerStack):
    """The layers of a ``RobertaModel``; all text tokens are back at their places at the end."""

    name = "text"
    prefix = {"text": 1}
    readout = 0
    output = "full"
    padded = True

    def __init__(self, roberta: RobertaModel) -> None:
        self.module = roberta.encoder
        self.blocks = list(roberta.encoder.layer)
        if roberta.config.is_decoder:
            raise UnsupportedModelError("a RoBERTa that is a decoder (is_decoder=True) needs every token at its place")

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, RobertaLayer):
            raise UnsupportedModelError(f"{type(block).__name__} is not a RobertaLayer")
        return BertView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        out: Tensor = block.forward(x, additive(real, x))
        return out

    def forward(self, run: Pass, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if any(kwargs.get(name) is not None for name in ("encoder_hidden_states", *CACHES)):
            raise UnsupportedCallError("encoder states and caches are not for a reduced RoBERTa; detach() first")
        run.start(hidden_states, {"text": hidden_states.shape[1]}, real_tokens(attention_mask, hidden_states))
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=run(hidden_states))

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.module, "forward", RobertaEncoder.forward)]


def real_tokens(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """(B, T) which tokens are real, from the mask that transformers hands to an encoder over x (B, T, C).

    Raises:
        UnsupportedCallError: a mask that is not one over keys alone.
    """
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask.bool()
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-1] != x.shape[1]:
        raise UnsupportedCallError(f"the attention mask must be (B, T) or (B, 1, 1 or T, T), got {tuple(mask.shape)}")
    row = mask[:, 0, 0]  # every row masks the same keys: the mask is bidirectional
    return row if row.dtype == row.bool().dtype else row > -1.0
