"""The model of the crowded scenes: the embedded ViLT's architecture, with more words and longer questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import model as digits
from .questions import LENGTH, WORDS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ViltForQuestionAnswering

WEIGHTS = Path(__file__).parent / "vilt.safetensors"


def build() -> ViltForQuestionAnswering:
    """The model with random weights."""
    return digits.build(WORDS, LENGTH)


def load(path: Path = WEIGHTS) -> ViltForQuestionAnswering:
    """The trained model, in evaluation mode."""
    from safetensors.torch import load_file

    model = build()
    model.load_state_dict(load_file(path))
    model.train(False)
    return model


def start(path: Path) -> ViltForQuestionAnswering:
    """The model with weights to go on from, in training mode; words and places that they do not have stay random."""
    from safetensors.torch import load_file

    model = build()
    own: dict[str, Tensor] = model.state_dict()
    for name, value in load_file(path).items():
        if own[name].shape == value.shape:
            own[name].copy_(value)
        elif own[name].ndim == 2 and "text_embeddings" in name:
            own[name][: len(value)].copy_(value)
    with torch.no_grad():
        model.load_state_dict(own)
    return model.train()
