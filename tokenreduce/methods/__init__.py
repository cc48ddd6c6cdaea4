"""The contract for methods: what a reducer is given, what it returns, and helpers to write one."""

from __future__ import annotations

from ..core.budget import constant_or_ramp, per_site, spaced, spread_counts
from ..core.gate import Gate
from ..core.option_checks import check_ratio, check_seed
from ..core.reduction import Reduction
from ..core.signals import SIGNALS, Signals
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from .backbone import Backbone
from .part import make
from .reducer import Reducer
from .saliency import NEEDS, alternatives, random_score, saliency

__all__ = [
    "NEEDS",
    "SIGNALS",
    "Backbone",
    "Gate",
    "Reducer",
    "Reduction",
    "Signals",
    "Site",
    "Stream",
    "Streams",
    "Tokens",
    "alternatives",
    "check_ratio",
    "check_seed",
    "constant_or_ramp",
    "make",
    "per_site",
    "random_score",
    "saliency",
    "spaced",
    "spread_counts",
]
