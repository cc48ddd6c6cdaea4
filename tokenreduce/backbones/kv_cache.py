"""What the entries of one layer's key-value cache are, where a reducer has left out tokens of the prompt.

Torch alone: an adapter derives its library's cache layer and lets one of these follow every change of it. To the
world outside the layers a cache is as long as the prompt was (logical); it holds what is left (physical).

Axes: B batch, P entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
        gone: tokens that were there in front and have been let go, (B, 1) or one number for all.
    """

    prompt: Tensor
    length: int
    ragged: bool
    tail: int = 0
    gone: Tensor | int = 0

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

    def places(self, last: int) -> Tensor:
        """(B or 1, last) number of each of the last entries among all tokens that were ever there, from 0."""
        if not self.ragged:
            places = torch.arange(self.entries - last, self.entries, device=self.prompt.device)[None]
        else:
            places = ((self.columns() >= 0).cumsum(dim=1) - 1).clamp(min=0)[:, -last:]
        return places + self.gone

    def grown(self, tokens: int) -> Kept:
        """With as many tokens more at the end."""
        return replace(self, tail=self.tail + tokens)

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
        return replace(self, tail=self.tail - tokens)

    def trimmed(self, entries: int) -> Kept:
        """Without the first entries, as a sliding window forgets them."""
        own = int(self.prompt.shape[1])
        later = max(entries - own, 0)
        real = (self.prompt[:, :entries] >= 0).sum(dim=1, keepdim=True) if self.ragged else min(entries, own)
        return replace(
            self,
            prompt=self.prompt[:, entries:],
            length=self.length + later,
            tail=self.tail - later,
            gone=self.gone + real + later,
        )

    def selected(self, samples: Tensor) -> Kept:
        """Of these samples: beams are reordered, candidates chosen."""
        return self._each(lambda side: side[samples.to(side.device)])

    def repeated(self, times: int) -> Kept:
        """Every sample several times, side by side."""
        return self._each(lambda side: side.repeat_interleave(times, dim=0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Kept:
        gone = change(self.gone) if isinstance(self.gone, Tensor) else self.gone
        return replace(self, prompt=change(self.prompt), gone=gone)
