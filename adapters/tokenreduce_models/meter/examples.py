"""Small random METER models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import RobertaConfig

from tokenreduce.backbones import Example, pair

from .config import MeterConfig
from .heads import (
    MeterForImageAndTextRetrieval,
    MeterForImagesAndTextClassification,
    MeterForQuestionAnswering,
    MeterForVisualEntailment,
)
from .model import MeterEncoder, MeterModel


def example(kind: type[MeterEncoder], seed: int = 0, **options: Any) -> Example:
    """A small random METER and inputs for it: two samples, the second text padded."""
    text = RobertaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        type_vocab_size=1,
        initializer_range=0.2,
    )
    pairs = kind is MeterForImagesAndTextClassification
    small = {
        "text_config": text,
        "image_size": 48,
        "patch_size": 8,
        "vision_hidden_size": 32,
        "vision_layers": 5,
        "vision_heads": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_top_layer": 4,
        "initializer_range": 0.2,
        "token_types": 3 if pairs else 2,
    }
    config = MeterConfig(**{**small, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        ids = torch.randint(3, 60, (2, 12))
        pixels = torch.randn(2, *([2] if pairs else []), 3, *pair(config.image_size))
    mask = torch.ones_like(ids)
    ids[1, 8:], mask[1, 8:] = config.text_config.pad_token_id, 0
    return Example(model, {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask})


EXAMPLES = {
    kind.__name__: partial(example, kind)
    for kind in (
        MeterModel,
        MeterForQuestionAnswering,
        MeterForVisualEntailment,
        MeterForImagesAndTextClassification,
        MeterForImageAndTextRetrieval,
    )
}
EXAMPLES["MeterForQuestionAnswering, sequential"] = partial(
    example, MeterForQuestionAnswering, level_order="sequential"
)
