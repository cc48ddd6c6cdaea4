"""Dropping by the last token's attention. Axes: B batch, N tokens."""

from __future__ import annotations

from typing import Any

from tokenreduce.methods import Backbone, BaseReducer, Budget, Reduction, Site, Streams, layers_after


class FastV(BaseReducer):
    """Keep the image tokens that the prompt's last token attends to most, once, after two of 32 layers.

    The score is that token's attention in the layer before the cut, averaged over heads and normalised over the whole
    row, text included. Kept tokens stay in order; nothing merges.

    Source: Chen et al., An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
    Vision-Language Models, ECCV 2024, arXiv 2403.06764; the score is that of the published code (the paper's text has
    the mean over all rows). Published K counts layers that run first: K is ``layers=[K - 1]`` here. Where this differs:
    each sample by its own row; padding stays masked; a share is rounded up.

    Args:
        keep: share of the image tokens that stay (float in (0, 1]) or their number (int), or a list with one per site;
            or a rule (``tokenreduce.Budget.cumulative(0.3, cap=288)``).
    """

    keep: Any = 0.5

    needs = frozenset({"readout_attention"})
    by_sample = True

    def budgets(self) -> dict[str, Budget]:
        return {"keep": Budget.of("keep", self.keep)}

    def layers(self, backbone: Backbone) -> list[int]:
        return layers_after([2], backbone.depth)

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        kept = self.keep_top(stream, site, lambda: stream.signals.readout_attention)
        return {} if kept is None else {streams.main: kept}
