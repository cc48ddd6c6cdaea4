"""Tensors that are made when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Later:
    """A tensor that is made when it is first read, by :func:`read`.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make
        self._made: Tensor | None = None

    def __call__(self) -> Tensor:
        """The tensor."""
        if self._made is None:
            self._made = self._make()
        return self._made


def read(value: Tensor | Later | None) -> Tensor | None:
    """A tensor that may be made later, now; None stays None."""
    return value() if isinstance(value, Later) else value
