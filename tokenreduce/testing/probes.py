"""Three plain reducers that adapters are tried with. Axes: B batch, N tokens, K kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.reduction import Reduction
from ..core.signals import Signals
from ..core.site import Site
from ..core.streams import Streams
from ..core.tokens import Tokens
from ..methods.backbone import Backbone
from ..methods.reducer import BaseReducer, Reducer


class Halve(Reducer):
    """Keeps half of the tokens of the main stream, by their first channel (post-norm tokens are all of one length)."""

    keep: Any = 0.5

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def reduce(self, tokens: Tokens, signals: Signals, remove: int) -> Reduction:
        return tokens.keep_top(tokens.x[..., 0], remove=remove)


class Pair(Reducer):
    """Merges the last two tokens of the main stream, where they are not protected and of one kind."""

    remove: Any = 1

    proportional_attention = True

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def reduce(self, tokens: Tokens, signals: Signals, remove: int) -> Reduction:
        count, batch = tokens.count, len(tokens.x)
        keep = torch.arange(count - 1, device=tokens.x.device).expand(batch, -1)
        source = torch.full_like(keep[:, :1], count - 1)
        size = tokens.sizes()
        return Reduction(
            keep, source, source - 1, length=count, keep_weight=size.gather(1, keep), weight=size.gather(1, source)
        )


class Listener(BaseReducer):
    """Removes nothing and keeps the signals that it is given, by stream and layer.

    Args:
        signals: which ones.
    """

    signals: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.signals)

    @cached_property
    def heard(self) -> dict[tuple[int, str], dict[str, Tensor]]:
        """What it was given."""
        return {}

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction]:
        stream = streams[streams.main]
        values = {name: getattr(stream.signals, name) for name in sorted(self.needs)}
        tokens = stream.tokens
        real = tokens.x.new_ones(tokens.x.shape[:2], dtype=torch.bool) if tokens.real is None else tokens.real
        patches = real & (torch.arange(tokens.count, device=real.device) >= tokens.prefix)
        self.heard[site.layer, streams.main] = {"x": tokens.x, "real": real, "patches": patches, **values}
        return {}
