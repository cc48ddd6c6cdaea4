"""A place in a language model with its reducer."""

from __future__ import annotations

from collections.abc import Mapping

from ...backbones.causal import CausalStack
from ...core.site import Site
from ...methods.backbone import Backbone
from ...methods.reducer import BaseReducer
from ...methods.site_reducer import SiteReducer
from ..binding import BaseBinding
from .record import CausalRecord

POSITIONS = ("original", "compact")


class CausalBinding(BaseBinding):
    """A place in a language model with its reducer; its sites are by layer, -1 for the hand-over.

    Attributes:
        unit: what is reduced by itself: ``"image"``, ``"sample"`` or ``"tile"``.
        compact: whether what is left is numbered anew.
    """

    stack: CausalStack
    last: CausalRecord | None

    def __init__(
        self,
        stack: CausalStack,
        active: SiteReducer,
        original: BaseReducer,
        backbone: Backbone,
        sites: Mapping[int, Site],
        trace: bool,
        unit: str,
        compact: bool,
    ) -> None:
        super().__init__(stack, active, original, backbone, sites, "full", trace)
        self.unit, self.compact = unit, compact


def remarks(binding: BaseBinding) -> list[str]:
    """What a user should know of a reducer in a language model."""
    if isinstance(binding, CausalBinding) and binding.active.proportional_attention:
        return [
            "a merged token counts once in attention: the layers of a language model run whole, without proportional "
            "attention"
        ]
    return []
