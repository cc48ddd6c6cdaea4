"""The contract for methods: what a reducer is given, what it returns, and helpers to write one."""

from __future__ import annotations

from ..core.budget import Budget
from ..core.gate import Gate
from ..core.option_checks import check_ratio, check_seed
from ..core.reduction import Reduction
from ..core.rules import Rule
from ..core.schedules import layers_after, spaced_layers
from ..core.signals import SIGNALS, Signals
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from .backbone import Backbone
from .features import check_features, features_of, features_on
from .part import make
from .reducer import BaseReducer, Reducer, reducer_name
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
    "check_features",
    "check_ratio",
    "check_seed",
    "features_of",
    "features_on",
    "free_real",
    "layers_after",
    "make",
    "random_score",
    "read_layer",
    "reducer_name",
    "resolve",
    "saliency",
    "saliency_on",
    "spaced_layers",
]
