"""The contract for methods: what a reducer is given, what it returns, and helpers to write one."""

from __future__ import annotations

from ..core.budget import Budget
from ..core.gate import Gate
from ..core.option_checks import check_ratio, check_seed
from ..core.reduction import Reduction
from ..core.rules import Rule
from ..core.schedules import spaced_layers
from ..core.signals import SIGNALS, Signals
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from .backbone import Backbone
from .part import make
from .reducer import BaseReducer, Reducer
from .saliency import (
    ATTENTION,
    NEEDS,
    alternatives,
    attention_of,
    attention_on,
    check_attention,
    random_score,
    resolve,
    saliency,
    saliency_on,
)
from .selector import Selector, free_real, read_layer
from .site_reducer import BoundReducer, SiteReducer
from .wrapper import BoundWrapper, WrapperReducer

__all__ = [
    "ATTENTION",
    "NEEDS",
    "SIGNALS",
    "Backbone",
    "BaseReducer",
    "BoundReducer",
    "BoundWrapper",
    "Budget",
    "Gate",
    "Reducer",
    "Reduction",
    "Rule",
    "Selector",
    "Signals",
    "Site",
    "SiteReducer",
    "Stream",
    "Streams",
    "Tokens",
    "WrapperReducer",
    "alternatives",
    "attention_of",
    "attention_on",
    "check_attention",
    "check_ratio",
    "check_seed",
    "free_real",
    "make",
    "random_score",
    "read_layer",
    "resolve",
    "saliency",
    "saliency_on",
    "spaced_layers",
]
