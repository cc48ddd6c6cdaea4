"""What a reducer may read of a block or a language model, made when asked for.

Axes: B batch, H heads, N tokens of the sequence, n tokens of the stream, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import UnsupportedCallError
from .reduction import Reduction

SIGNALS = (
    "keys",
    "value_norms",
    "class_attention",
    "readout_attention",
    "text_attention",
    "received_attention",
    "paid_attention",
    "received_logits",
    "paid_logits",
    "text_cosine",
    "encoder_features",
    "class_features",
    "prompt_embeddings",
    "projector",
    "next_readout_attention",
    "rotated_keys",
    "normed_states",
    "columns",
    "image_embeddings",
    "text_rows",
    "text_columns",
    "text_embeddings",
    "text_keys",
    "text_states",
)
TOWER_FEATURES = ("encoder_features", "class_features", "prompt_embeddings", "projector")
"""Signals that only the hand-over to a language model gives."""
GUIDED = ("text_attention", "text_cosine")
"""Signals that any stack gives once text features guide it (``handle.guide``)."""
WHOLE = (
    "class_features",
    "prompt_embeddings",
    "projector",
    "image_embeddings",
    "text_columns",
    "text_embeddings",
    "text_keys",
    "text_states",
)
"""Signals that are not of single tokens: no reduction changes them."""

Sources = Mapping[str, Callable[[], Tensor]]
"""What makes each signal, by name."""


class Signals:
    """Signals of one stream, each computed when first read, and only if the reducer declared it.

    Attributes:
        keys: (B, n, d), their keys in this block averaged over heads (in its cross-attention for a memory).
        value_norms: (B, n), lengths of their values in the same attention, of all heads side by side.
        class_attention: (B, n), attention from the class token in front of their own sequence, averaged over heads.
        readout_attention: (B, n), attention from the token that the head reads, averaged over heads: in a ViT the class
            token, in ViLT the text's [CLS].
        text_attention: (B, n), attention from the text's tokens, averaged over heads and real text tokens; or
            likeness to the text features given to ``handle.guide``.
        received_attention: (B, n), attention that each token is paid by all patches, averaged over heads and patches:
            the tokens of the stream that are not protected. Padding pays and is paid nothing, here and in the next
            three.
        paid_attention: (B, n), attention that each token pays the patches, averaged likewise.
        received_logits, paid_logits: (B, n), the same of the scaled products of queries and keys before the softmax.
        text_cosine: (B, n, Q), cosine of each token with each of the Q text features given to ``handle.guide``.
        encoder_features: (B, n, C'), at the hand-over to a language model: what the projector was given.
        class_features: (B, 1, C'), the same of the encoder's class token.
        prompt_embeddings: (B, t, C), at the hand-over: embeddings of the prompt's text, zeros behind shorter ones.
        projector: a function from encoder features (B, k, C') to the language model's space (B, k, C).
        next_readout_attention: (B, n), between the layers of a language model: attention that the token which is read
            would pay in the next layer, averaged over heads.
        rotated_keys: (B, n, G d), there: their keys with positions, of all key heads side by side.
        normed_states: (B, n, C), there: the tokens after the model's last norm.
        columns: (B, n), there: their places in the prompt, padding not counted.
        image_embeddings: (B, N, C), there: all tokens of the same images as they entered the first layer.
        text_rows: (B, n, t, H), there: attention from each text token behind the image, up to the one that is read;
            0 for what fills up shorter texts.
        text_columns: (B, t), there: places of these text tokens in the prompt, -1 for what fills up.
        text_embeddings: (B, t, C), there: these text tokens as they entered the first layer.
        text_keys: (B, t, G d), there: their keys with positions.
        text_states: (B, t, C), there: they after the model's last norm.
    """

    def __init__(self, sources: Sources | Callable[[], Sources], needs: frozenset[str]) -> None:
        self._given, self._needs = sources, needs
        self._cache: dict[str, Tensor] = {}

    @property
    def _sources(self) -> Sources:
        """What makes each signal; looked for when the first one is read."""
        if not isinstance(self._given, Mapping):
            self._given = self._given()
        return self._given

    def _read(self, name: str) -> Tensor:
        if name not in self._cache:
            if name not in self._needs:
                raise UnsupportedCallError(f"the reducer read signals.{name} but its 'needs' has {set(self._needs)}")
            sources = self._sources
            if name not in sources:
                raise UnsupportedCallError(f"this stream has no {name}; it has {', '.join(sources)}")
            self._cache[name] = sources[name]()
        return self._cache[name]

    def after(self, reduction: Reduction) -> Signals:
        """Signals of the tokens that a reduction leaves: a kept token has its own, a merged one its members' mean."""
        return Signals(partial(self._sources_after, reduction), self._needs)

    def _sources_after(self, reduction: Reduction) -> Sources:
        return {
            name: partial(self._read, name) if name in WHOLE else partial(self._left, name, reduction)
            for name in self._sources
        }

    def _left(self, name: str, reduction: Reduction) -> Tensor:
        return reduction.average(self._read(name))

    @property
    def keys(self) -> Tensor:
        return self._read("keys")

    @property
    def value_norms(self) -> Tensor:
        return self._read("value_norms")

    @property
    def class_attention(self) -> Tensor:
        return self._read("class_attention")

    @property
    def readout_attention(self) -> Tensor:
        return self._read("readout_attention")

    @property
    def text_attention(self) -> Tensor:
        return self._read("text_attention")

    @property
    def received_attention(self) -> Tensor:
        return self._read("received_attention")

    @property
    def paid_attention(self) -> Tensor:
        return self._read("paid_attention")

    @property
    def received_logits(self) -> Tensor:
        return self._read("received_logits")

    @property
    def paid_logits(self) -> Tensor:
        return self._read("paid_logits")

    @property
    def text_cosine(self) -> Tensor:
        return self._read("text_cosine")

    @property
    def encoder_features(self) -> Tensor:
        return self._read("encoder_features")

    @property
    def class_features(self) -> Tensor:
        return self._read("class_features")

    @property
    def prompt_embeddings(self) -> Tensor:
        return self._read("prompt_embeddings")

    @property
    def next_readout_attention(self) -> Tensor:
        return self._read("next_readout_attention")

    @property
    def rotated_keys(self) -> Tensor:
        return self._read("rotated_keys")

    @property
    def normed_states(self) -> Tensor:
        return self._read("normed_states")

    @property
    def columns(self) -> Tensor:
        return self._read("columns")

    @property
    def image_embeddings(self) -> Tensor:
        return self._read("image_embeddings")

    @property
    def text_rows(self) -> Tensor:
        return self._read("text_rows")

    @property
    def text_columns(self) -> Tensor:
        return self._read("text_columns")

    @property
    def text_embeddings(self) -> Tensor:
        return self._read("text_embeddings")

    @property
    def text_keys(self) -> Tensor:
        return self._read("text_keys")

    @property
    def text_states(self) -> Tensor:
        return self._read("text_states")

    @property
    def projector(self) -> Callable[[Tensor], Tensor]:
        made: Any = self._read("projector")
        function: Callable[[Tensor], Tensor] = made
        return function
