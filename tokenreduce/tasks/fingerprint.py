"""Fingerprints of samples and of models. Axes: B batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .identity import Identity, tensor_digest
from .task import Batch


def sample_fingerprints(batch: Batch, unknown: list[str] | None = None) -> list[str]:
    """A hash of each sample's inputs and target, whatever device they are on and whatever stands beside it.

    What has no axis of samples counts for every sample.

    Args:
        unknown: is told what of them cannot be hashed, and counts by its type alone.
    """
    samples, walk = len(batch), Identity(code=False)
    inputs = batch.inputs.values() if isinstance(batch.inputs, Mapping) else batch.inputs
    apart = partial(_is_apart, samples)
    hashes = [hashlib.sha256() for _ in range(samples)]
    for leaf in (leaf for value in (*inputs, batch.targets) for leaf in tree_leaves(value, is_leaf=apart)):
        rows = per_sample(leaf, samples)
        parts = [_digest(walk, leaf)] * samples if rows is None else [_digest(walk, row) for row in rows]
        for sha, part in zip(hashes, parts, strict=True):
            sha.update(part.encode())
    if unknown is not None:
        unknown += walk.unknown
    return [sha.hexdigest()[:16] for sha in hashes]


def per_sample(value: Any, samples: int) -> Sequence[Any] | None:
    """The parts of a value, one for each sample; None where it has no axis of samples."""
    if isinstance(value, Tensor):
        return list(value) if value.ndim and len(value) == samples else None
    if isinstance(value, (str, bytes)) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return None
    try:
        return [value[index] for index in range(samples)] if len(value) == samples else None
    except (TypeError, KeyError, IndexError):
        return None


def join_fingerprints(parts: Sequence[str]) -> str:
    """One fingerprint of several."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def model_fingerprint(model: nn.Module) -> str:
    """A hash of a model's modules, their attributes, weights, buffers, dtypes and configuration.

    Names of functions and classes count, not their code, so that it is the same on another machine. Mode and device do
    not count.
    """
    return Identity(code=False).of(model)[:16]


def _is_apart(samples: int, value: Any) -> bool:
    """Whether it is a list with an entry for each sample."""
    return isinstance(value, (list, tuple)) and len(value) == samples


def _digest(walk: Identity, value: Any) -> str:
    return tensor_digest(value) if isinstance(value, Tensor) else walk.of(value)
