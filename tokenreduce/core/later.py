"""Tensors that are made when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Later:
    """A tensor that is made when it is first read, by :func:`read`.

    Args:
        make: makes it.
        device: where it will be.
    """

    def __init__(self, make: Callable[[], Tensor], device: torch.device) -> None:
        self._make, self.device = make, device
        self._made: Tensor | None = None

    def __call__(self) -> Tensor:
        """The tensor."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def to(self, device: torch.device) -> Later:
        """The same on another device, when it is read."""
        return Later(lambda: self().to(device), device)


def read(value: Tensor | Later | None) -> Tensor | None:
    """A tensor that may be made later, now; None stays None."""
    return value() if isinstance(value, Later) else value
