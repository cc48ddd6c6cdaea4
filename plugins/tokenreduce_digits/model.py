"""The embedded model: a real ``ViltForQuestionAnswering`` of 12 layers, small in width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .scenes import GRID, PATCH, PIXELS
from .words import ANSWERS, TEXT_LENGTH, VOCABULARY

if TYPE_CHECKING:
    from transformers import ViltForQuestionAnswering

WEIGHTS = Path(__file__).parent / "vilt.safetensors"
WIDTH = 128


def build(vocabulary: Sequence[str] = VOCABULARY, length: int = TEXT_LENGTH) -> ViltForQuestionAnswering:
    """The model with random weights; position embeddings start as two-dimensional sines."""
    from transformers import ViltConfig, ViltForQuestionAnswering

    config = ViltConfig(
        hidden_size=WIDTH,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=3 * WIDTH,
        vocab_size=len(vocabulary),
        max_position_embeddings=length,
        image_size=PIXELS,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        initializer_range=0.05,
        id2label=dict(enumerate(ANSWERS)),
        label2id={word: i for i, word in enumerate(ANSWERS)},
    )
    model = ViltForQuestionAnswering(config)
    with torch.no_grad():
        model.vilt.embeddings.position_embeddings[0, 1:] = 0.4 * sines(GRID, WIDTH)
    return model


def load(path: Path = WEIGHTS) -> ViltForQuestionAnswering:
    """The trained model, in evaluation mode."""
    from safetensors.torch import load_file

    model = build()
    model.load_state_dict(load_file(path))
    model.train(False)
    return model


def sines(side: int, width: int) -> torch.Tensor:
    """(side * side, width): half of the channels turn with the row, half with the column."""
    frequency = torch.logspace(0.3, -1.3, width // 4)
    angle = torch.arange(side)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=-1)
    rows = wave[:, None].expand(side, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)
