"""Small random models and inputs, for the adapters' examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 40,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 98,
}
LABELS: dict[str, Any] = {"id2label": {i: str(i) for i in range(5)}, "label2id": {str(i): i for i in range(5)}}


def tiny(cls: type[nn.Module], config: Any, seed: int = 0, **arguments: Any) -> nn.Module:
    """A model of this class in evaluation mode, every weight random: none at zero, no part too small to matter."""
    with torch.random.fork_rng(devices=[]):
        model = cls(config, **arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2 and "class" not in name:
                parameter.copy_(0.2 * noise + (0 if name.endswith("bias") else 1))
            elif parameter.ndim == 2 and "embedding" not in name:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            elif parameter.ndim == 4:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:  # embeddings, class tokens
                parameter.copy_(0.5 * noise)
    return model.eval()


def pixels(batch: int = 2, size: int = 40, seed: int = 1) -> Tensor:
    """Noise images (B, 3, size, size)."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def words(batch: int = 2, length: int = 6, seed: int = 2) -> Tensor:
    """Token ids (B, length) that end with the end-of-text token."""
    ids = torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[:, -1] = 98
    return ids
