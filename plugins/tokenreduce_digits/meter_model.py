"""The embedded METER: a real ``MeterForQuestionAnswering`` with four vision blocks and six levels, small in width."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .model import sines
from .scenes import GRID, PATCH, PIXELS
from .words import ANSWERS, TEXT_LENGTH, VOCABULARY

if TYPE_CHECKING:
    from tokenreduce_models.meter import MeterForQuestionAnswering

WEIGHTS = Path(__file__).parent / "meter.safetensors"
VISION_WIDTH, WIDTH, HEAD = 128, 96, 32


def build() -> MeterForQuestionAnswering:
    """The model with random weights; position embeddings start as two-dimensional sines."""
    from transformers import RobertaConfig

    from tokenreduce_models.meter import MeterConfig, MeterForQuestionAnswering

    text = RobertaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=WIDTH // HEAD,
        intermediate_size=3 * WIDTH,
        max_position_embeddings=TEXT_LENGTH + 1,
        type_vocab_size=1,
        pad_token_id=0,
        initializer_range=0.05,
    )
    config = MeterConfig(
        text_config=text,
        image_size=PIXELS,
        patch_size=PATCH,
        vision_hidden_size=VISION_WIDTH,
        vision_layers=5,
        vision_heads=VISION_WIDTH // HEAD,
        hidden_size=WIDTH,
        num_attention_heads=WIDTH // HEAD,
        intermediate_size=3 * WIDTH,
        num_top_layer=6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        id2label=dict(enumerate(ANSWERS)),
        label2id={word: i for i, word in enumerate(ANSWERS)},
    )
    model = MeterForQuestionAnswering(config)
    with torch.no_grad():
        model.vit_model.visual.positional_embedding[1:] = 0.4 * sines(GRID, VISION_WIDTH)
    return model


def load(path: Path = WEIGHTS) -> MeterForQuestionAnswering:
    """The trained model, in evaluation mode; the file has half precision, the model has single."""
    from safetensors.torch import load_file

    model = build()
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()
