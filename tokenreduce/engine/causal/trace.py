"""Where each token of a prompt went. Axes: B batch, q columns of the prompt, p tokens that are left, n of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backbones.causal import Prompt
from ...core.trace import Trace
from ...errors import OptionError


class PromptTrace(Trace):
    """For each sample and each token that is left, the columns of the prompt it stands for: ``trace[b][j]``.

    Attributes:
        source: (B, q) which of the tokens that are left each column ended in, -1 where it was dropped (or padding).
        columns: (B, p) column of each token that is left, -1 for padding.
        layers: the same of the tokens that each layer works on.
    """

    def __init__(self, prompt: Prompt, ends: Tensor, columns: Tensor, layers: Sequence[Tensor]) -> None:
        self.columns, self.layers, self._numbers = columns, list(layers), prompt.numbers
        self._grids: Sequence[Sequence[tuple[int, ...] | None]] = prompt.grids
        self._pieces = prompt.pieces
        left = torch.full_like(ends[:, :1], -1).expand(-1, ends.shape[1] + 1).clone()
        place = torch.arange(columns.shape[1], device=ends.device).expand_as(columns)
        left.scatter_(1, torch.where(columns >= 0, columns, ends.shape[1]), place)
        source = torch.where(ends >= 0, left.gather(1, ends.clamp(min=0)), -1)
        super().__init__(source, None, {"prompt": source.shape[1]}, {"prompt": columns.shape[1]})

    def image(self, sample: int, number: int = 0) -> Tensor:
        """(n,) which of the tokens that are left each token of one image ended in, -1 where it was dropped.

        Args:
            sample: of the batch.
            number: of the image within the sample.

        Raises:
            OptionError: the sample has no such image.
        """
        mine = self._numbers[sample] == number
        if not bool(mine.any()):
            images = int(self._numbers[sample].max()) + 1
            raise OptionError(f"sample {sample} has {images} images, numbered from 0; got {number}")
        return self.source[sample, mine]

    def grid(self, sample: int, number: int = 0) -> tuple[int, ...] | None:
        """Rows and columns (frames first, for a video) of the tokens of an image in the prompt; None for no grid."""
        return self._grids[sample][number] if self._grids else None

    def pieces(self, sample: int, number: int = 0) -> Sequence[tuple[int, int]]:
        """Rows and columns of each grid that the tokens of an image of several tiles form, one behind the other."""
        return self._pieces[sample][number] if self._pieces else ()
