"""Fingerprints of samples and of models. Axes: B batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .task import Batch


def sample_fingerprints(batch: Batch) -> list[str]:
    """A hash of each sample's inputs and target, whatever device they are on and whatever stands beside it.

    What has no axis of samples counts for every sample.
    """
    samples = len(batch)
    leaves, _ = tree_flatten((batch.inputs, batch.targets))
    hashes = [hashlib.sha256() for _ in range(samples)]
    for leaf in leaves:
        apart = hasattr(leaf, "__len__") and not isinstance(leaf, (str, bytes)) and len(leaf) == samples
        plain = leaf.detach().cpu() if isinstance(leaf, Tensor) and leaf.ndim else leaf
        for index, sha in enumerate(hashes):
            add_value(sha, plain[index] if apart else plain)
    return [sha.hexdigest()[:16] for sha in hashes]


def join_fingerprints(parts: Sequence[str]) -> str:
    """One fingerprint of several."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def model_fingerprint(model: nn.Module) -> str:
    """A hash of a model's modules, weights, buffers, dtypes and configuration.

    Hooks, mode and device do not count.
    """
    sha = hashlib.sha256()
    for name, module in model.named_modules():
        sha.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {module.extra_repr()}\n".encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        sha.update(name.encode())
        add_value(sha, tensor)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        plain = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
        sha.update(json.dumps(plain, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def add_value(sha: Any, value: Any) -> None:
    """Put a tensor (dtype, shape, bytes) or any other value into a hash."""
    if not isinstance(value, Tensor):
        sha.update(repr(value).encode())
        return
    plain = value.detach().cpu().contiguous()
    sha.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
    sha.update(plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b"")
