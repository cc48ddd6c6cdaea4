"""Comparing what models give. Axes: B batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


INSIDE = ("hidden_states", "attentions")


def assert_close(got: Tensor, expected: Tensor, tolerance: float | None = None, *, what: str = "it") -> None:
    """Check that two tensors agree, relative to the largest expected value.

    Args:
        got, expected: tensors of one shape.
        tolerance: that of ``expected``'s type in :data:`TOLERANCES` if None.
        what: what to call it in the message.

    Raises:
        AssertionError: another shape, another type, or too far apart.
    """
    assert got.shape == expected.shape, f"{what}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    assert got.dtype == expected.dtype, f"{what}: expected {expected.dtype}, got {got.dtype}"
    if not expected.is_floating_point():
        assert torch.equal(got, expected), f"{what} differs"
        return
    if not expected.numel():
        return
    allowed = TOLERANCES.get(expected.dtype, 1e-5) if tolerance is None else tolerance
    scale = max(float(expected.double().abs().max()), 1e-12)
    difference = float((got.double() - expected.double()).abs().max())
    assert difference <= allowed * scale, (  # a NaN is not below anything
        f"{what}: differs by {difference:.3g} at a scale of {scale:.3g}; allowed is {allowed:g} of it"
    )


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of a model's output, in order: of tensors, tuples, lists, mappings and output classes.

    Records of the inside, the tuples that output classes have under ``hidden_states`` and ``attentions``, are left out.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = [value for key, value in output.items() if isinstance(value, Tensor) or not key.endswith(INSIDE)]
    if isinstance(output, Sequence) and not isinstance(output, (str, bytes)):
        return [tensor for part in output for tensor in tensors(part)]
    return []


def identical(got: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether two outputs are the same bit for bit."""
    return len(got) == len(expected) and all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
