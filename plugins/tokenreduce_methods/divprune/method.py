"""Max-min diversity. Axes: B batch, N tokens, K kept."""

from __future__ import annotations

from torch import Tensor

from tokenreduce.methods import Selector, Stream, free_real
from tokenreduce.ops import cosines, farthest


class DivPrune(Selector):
    """Keep tokens that differ from one another: each is the farthest from its nearest neighbour among those before it.

    The distance is 1 - cosine of the features at the site: at the hand-over of a language model, what the projector
    gives. The first token is the one that is farthest from its nearest neighbour among all. Fewer tokens are always the
    first of more. Neither attention nor the text is read.

    Source: Alvar et al., DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, CVPR 2025, arXiv
    2503.02175, section 3. Where this differs: each image is reduced by itself (published: the first sample's choice is
    used for the whole batch, and all tiles of an image together; ``unit="sample"`` of ``attach`` takes the images of a
    prompt together); a token is never kept twice where there are fewer different ones than are asked for; cosines are
    computed in float32.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``). 0.098 where neither is given, as published: 57 of
            576 (published: rounded, 56).
        remove: what goes, likewise; or ``(r, inflection)``.
    """

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 0.098)
        super().__post_init__()

    def choose(self, stream: Stream, keep: int) -> Tensor:
        prefix = stream.tokens.prefix
        return farthest(cosines(stream.tokens.x[:, prefix:]), keep, free_real(stream)) + prefix
