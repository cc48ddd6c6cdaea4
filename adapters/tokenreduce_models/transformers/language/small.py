"""What the small language models of the examples have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IMAGE = 90
TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 98,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 40,
    "patch_size": 8,
}


def prompts(tokens: int, batch: int = 2) -> Tensor:
    """Token ids (B, 8 + tokens): text, an image, text."""
    text = torch.randint(2, 80, (batch, 8), generator=torch.Generator().manual_seed(2))
    return torch.cat([text[:, :3], torch.full((batch, tokens), IMAGE), text[:, 3:]], dim=1)
