"""How vLLM has put the tiles of an image together; it does the same to anything else that belongs to patches.

Axes: T tiles of an image, N patches of a tile, n tokens of the image, D width of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_noted: ContextVar[list[Packing] | None] = ContextVar("_noted", default=None)


@dataclass(frozen=True)
class Packing:
    """One call of vLLM's function that puts the tiles of an image together.

    Args:
        merge: that function, unbound.
        config: of the model.
        size: of the picture.
        tiles, patches: how many.
        given: what else the function was given.
    """

    merge: Callable[..., Tensor]
    config: Any
    size: Any
    tiles: int
    patches: int
    given: dict[str, Any]

    def __call__(self, values: Tensor) -> Tensor:
        """Values of patches (T, N, D) as those of tokens (n, D); separators are zero."""
        newline = values.new_zeros(values.shape[-1])
        given = {**self.given, "image_newline": newline} if "image_newline" in self.given else self.given
        return self.merge(SimpleNamespace(config=self.config, image_newline=newline), self.size, values, **given)

    def separators(self, device: torch.device) -> Tensor:
        """(n,) True for tokens between rows."""
        marks = torch.ones(self.tiles, self.patches, 1, device=device)
        return self(marks)[:, 0] < 0.5


class Packings:
    """The packings of one call, in order; a context in which they are noted."""

    def __init__(self) -> None:
        self.made: list[Packing] = []
        self._token: Token[list[Packing] | None] | None = None

    def __enter__(self) -> Packings:
        self._token = _noted.set(self.made)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._token is not None
        _noted.reset(self._token)

    @staticmethod
    def note(merge: Callable[..., Tensor], config: Any, size: Any, patches: Any, given: dict[str, Any]) -> None:
        """Note a call, where somebody asked for them."""
        made = _noted.get()
        if made is not None:
            made.append(Packing(merge, config, size, len(patches), int(patches.shape[1]), dict(given)))
