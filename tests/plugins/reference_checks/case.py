"""A case of reference data, and how it is compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """What NAME.json and NAME.safetensors hold."""

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]
    read: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path) -> Case:
        """The case whose JSON file is at ``path``."""
        info = json.loads(path.read_text())
        return cls(path.stem, info, load_file(path.with_suffix(".safetensors")))

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.info.get("params", {}))

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def not_compared(self) -> list[str]:
        """Names of expected outputs that nothing has read; by their names, inputs are not among them."""
        return [name for name in self.tensors if EXPECTED.search(name) and name not in self.read]


EXPECTED = re.compile(r"^out_|_out$|^(leverage|order|energy_rank)_")
Check = Callable[[Case], Iterator[str]]


def indices(what: str, got: Tensor, expected: Tensor) -> Iterator[str]:
    """Differences of indices, row by row: they must be equal."""
    if got.shape != expected.shape:
        yield f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        return
    for row, (one, other) in enumerate(zip(got.tolist(), expected.tolist(), strict=True)):
        if one != other:
            yield f"{what}, row {row}: {one}, expected {other}"


def values(what: str, got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> Iterator[str]:
    """Differences of numbers by more than the tolerance."""
    if got.shape != expected.shape:
        yield f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        return
    apart = (got.double() - expected.double()).abs()
    largest = float(apart.max()) if apart.numel() else 0.0
    if not largest <= tolerance:  # NaN, too
        row = int(torch.nan_to_num(apart, nan=float("inf")).flatten(1).amax(dim=1).argmax())
        yield f"{what}: differs by {largest:.3g}, most in row {row}; {tolerance:g} is allowed"
