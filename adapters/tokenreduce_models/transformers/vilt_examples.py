"""Small random ViLT models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import ViltConfig
from transformers.models.vilt.modeling_vilt import (
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
    ViltForTokenClassification,
    ViltModel,
)

from tokenreduce.backbones import Example


def example(kind: type[nn.Module]) -> Example:
    """A ViLT with random weights, and two images with a text each, the second one padded."""
    pairs = kind is ViltForImagesAndTextClassification
    config = ViltConfig(
        vocab_size=60,
        max_position_embeddings=16,
        modality_type_vocab_size=3,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=48,
        patch_size=8,
        initializer_range=0.2,
        max_image_length=-1,
        num_images=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        ids = torch.randint(3, 60, (2, 12))
        pixels = torch.randn(2, *([2] if pairs else []), 3, 48, 48)
    mask = torch.ones_like(ids)
    ids[1, 8:], mask[1, 8:] = 0, 0
    return Example(model, {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask})


EXAMPLES: dict[str, Callable[[], Example]] = {
    kind.__name__: partial(example, kind)
    for kind in (
        ViltModel,
        ViltForQuestionAnswering,
        ViltForImageAndTextRetrieval,
        ViltForImagesAndTextClassification,
        ViltForMaskedLM,
        ViltForTokenClassification,
    )
}
