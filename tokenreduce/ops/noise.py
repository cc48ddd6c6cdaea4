"""Repeatable noise without a generator: a hash of (seed, layer, row, column), the same on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def hash_noise(
    rows: int | Tensor, columns: int, *, seed: int, layer: int, device: torch.device | None = None
) -> Tensor:
    """Uniform values in [0, 1), (rows, columns) float32, a function of its arguments alone.

    ``rows`` is how many there are, or their numbers (rows,).

    A counter-based generator (the 32-bit finaliser of MurmurHash3 over the cell's number) keeps no state,
    so that threads, devices, recomputation and ``torch.compile`` agree.
    """
    mask = 0xFFFFFFFF
    key = (seed * 0x9E3779B1 + layer * 0x85EBCA77 + 0x165667B1) & mask
    # in a trace a plain number is a tensor, too, one without dimensions
    counted: Any = rows
    numbers = counted if isinstance(rows, Tensor) and rows.ndim else torch.arange(counted, device=device)
    row = numbers.unsqueeze(1)
    column = torch.arange(columns, device=device).unsqueeze(0)
    cell = _mix(_mix((row + key) & mask) + column)
    return (cell >> 8).float() / 2**24


def _mix(value: Tensor) -> Tensor:
    mask = 0xFFFFFFFF
    value = value & mask
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & mask
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & mask
    return value ^ (value >> 16)
