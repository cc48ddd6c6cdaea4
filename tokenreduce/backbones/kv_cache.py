"""What the entries of one layer's key-value cache are, where a reducer has left out tokens of the prompt.

Torch alone: an adapter derives its library's cache layer and lets one of these follow every change of it. To the
world outside the layers a cache is as long as the prompt was (logical); it holds what is left (physical).

Axes: B batch, P entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UnsupportedCallError


@dataclass
class Kept:
    """The entries of one layer's cache: those of a reduced prompt, then whatever came after it, one by one.

    Args:
        prompt: (B, P) logical column of each of the first entries in rising order, -1 for padding in front.
        length: logical columns up to the end of the prompt.
        ragged: whether there is padding.
        tail: tokens since.
    """

    prompt: Tensor
    length: int
    ragged: bool
    tail: int = 0

    @property
    def logical(self) -> int:
        """Tokens so far, as the library counts them."""
        return self.length + self.tail

    @property
    def entries(self) -> int:
        """Tokens that the cache holds, padding included."""
        return int(self.prompt.shape[1]) + self.tail

    def columns(self) -> Tensor:
        """(B, P) logical column of every entry, -1 for padding."""
        if not self.tail:
            return self.prompt
        later = torch.arange(self.length, self.logical, device=self.prompt.device)
        return torch.cat([self.prompt, later.expand(self.prompt.shape[0], -1)], dim=1)

    def counts(self) -> Tensor | int:
        """(B, 1) how many entries are tokens; one number where it is the same for all."""
        if not self.ragged:
            return self.entries
        return (self.prompt >= 0).sum(dim=1, keepdim=True) + self.tail

    def grown(self, tokens: int) -> Kept:
        """With as many tokens more at the end."""
        return Kept(self.prompt, self.length, self.ragged, self.tail + tokens)

    def cropped(self, tokens: int) -> Kept:
        """Without the last tokens.

        Raises:
            UnsupportedCallError: they reach into the prompt that was reduced.
        """
        if tokens > self.tail:
            raise UnsupportedCallError(
                f"a key-value cache with {self.tail} tokens after a reduced prompt was to be cropped by {tokens}; "
                "samples have kept different tokens of the prompt itself. Crop no further than the prompt's end, or "
                "start from a new cache"
            )
        return Kept(self.prompt, self.length, self.ragged, self.tail - tokens)

    def trimmed(self, entries: int) -> Kept:
        """Without the first entries, as a sliding window forgets them."""
        return Kept(self.prompt[:, entries:], self.length, self.ragged, self.tail)

    def selected(self, samples: Tensor) -> Kept:
        """Of these samples: beams are reordered, candidates chosen."""
        return Kept(self.prompt[samples.to(self.prompt.device)], self.length, self.ragged, self.tail)

    def repeated(self, times: int) -> Kept:
        """Every sample several times, side by side."""
        return Kept(self.prompt.repeat_interleave(times, dim=0), self.length, self.ragged, self.tail)
