"""The configuration of a METER model."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, RobertaConfig

from tokenreduce.backbones import Size
from tokenreduce.errors import OptionError

ORDERS = ("parallel", "sequential")
ROBERTA_BASE = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
"""Where the published roberta-base differs from the defaults of :class:`transformers.RobertaConfig`."""


class MeterConfig(PretrainedConfig):
    """METER: a CLIP vision tower, RoBERTa, and levels of co-attention. The defaults are METER-base at 384 px.

    Source: Dou et al., An Empirical Study of Training End-to-End Vision-and-Language Transformers, CVPR 2022,
    arXiv 2111.02387.

    Args:
        text_config: RoBERTa's configuration (a dict, or a ``RobertaConfig``).
        image_size, patch_size: pixels per side.
        vision_hidden_size, vision_heads: width and attention heads of the vision tower.
        vision_layers: blocks of the CLIP tower that it was made from; the last one is left out, as published.
        hidden_size, num_attention_heads, intermediate_size: of the co-attention layers.
        num_top_layer: levels, each one text layer and one image layer.
        level_order: ``"parallel"``: the image layer of a level sees the text as it was before that level's text
            layer (METER as first published); ``"sequential"``: as it is after (checkpoints of PuMer's authors).
        layer_norm_eps: of the co-attention layers.
        token_types: rows of the token-type table: text, image, and a second image for NLVR2.
    """

    model_type = "meter"
    sub_configs = {"text_config": RobertaConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | RobertaConfig | None = None,
        image_size: int = 384,
        patch_size: int = 16,
        vision_hidden_size: int = 768,
        vision_layers: int = 12,
        vision_heads: int = 12,
        hidden_size: int = 768,
        num_attention_heads: int = 12,
        intermediate_size: int | None = None,
        num_top_layer: int = 6,
        level_order: str = "parallel",
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        token_types: int = 2,
        **kwargs: Any,
    ) -> None:
        if level_order not in ORDERS:
            raise OptionError(f"level_order must be 'parallel' or 'sequential', got {level_order!r}")
        if image_size % patch_size:
            raise OptionError(f"image_size must be a multiple of patch_size {patch_size}, got {image_size}")
        if text_config is None:
            text_config = RobertaConfig(**ROBERTA_BASE)
        elif isinstance(text_config, dict):
            text_config = RobertaConfig(**text_config)
        self.text_config: RobertaConfig = text_config
        self.image_size: int | Size = image_size  # height and width once resized to what is not a square
        self.patch_size = patch_size
        self.vision_hidden_size, self.vision_layers, self.vision_heads = vision_hidden_size, vision_layers, vision_heads
        self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
        self.intermediate_size = 4 * hidden_size if intermediate_size is None else intermediate_size
        self.num_top_layer, self.level_order = num_top_layer, level_order
        self.hidden_act, self.hidden_dropout_prob = hidden_act, hidden_dropout_prob
        self.attention_probs_dropout_prob, self.layer_norm_eps = attention_probs_dropout_prob, layer_norm_eps
        self.initializer_range, self.token_types = initializer_range, token_types
        self.chunk_size_feed_forward, self.is_decoder, self.add_cross_attention = 0, False, True
        super().__init__(**kwargs)
