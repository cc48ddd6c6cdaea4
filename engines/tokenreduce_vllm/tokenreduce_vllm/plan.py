"""What will be done to a model's image tokens: settings and facts become reducers, or are refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import tokenreduce
from tokenreduce.errors import UnfitReducerError, UnsupportedModelError
from tokenreduce.methods import Backbone, BaseReducer, SiteReducer, make
from tokenreduce.registry.targets import names_from_file

from .facts import HEADS, Facts
from .settings import ENTRY, LANGUAGE_REASON, Settings

PROMPT = frozenset(
    {"prompt_embeddings", "text_attention", "text_cosine", "text_rows", "text_embeddings", "text_states"}
)
LAYERS = frozenset({"readout_attention", "next_readout_attention", "rotated_keys", "normed_states", "text_keys"})
PROMPT_REASON = (
    "vLLM makes the features of a picture once and keeps them, under the picture alone, for every question about it; "
    "what is chosen for one question would answer the next. Use a method that reads the picture: {fit}"
)
COUNT_REASON = (
    "how many tokens of a picture stay must be known when a request comes in, before the encoder has run, for vLLM "
    "lays out the prompt and its cache then; and all that is there by then is the picture's pixels. Give a number or a "
    "share, such as keep=64"
)
SPLIT_REASON = (
    "which averages over the heads of the vision tower, and with tensor parallelism each process has some of them: "
    "they would choose different tokens. Use a method that reads the tokens alone ({fit}), or one process"
)


@dataclass(frozen=True)
class Plan:
    """What is done to the tokens of each image.

    Args:
        facts: of the model.
        handover: what acts between projector and language model, None for nothing.
        vision: what acts in the vision tower, with its layers (None: its own choice); None for nothing.
    """

    facts: Facts
    handover: SiteReducer | None = None
    vision: tuple[BaseReducer, Sequence[int] | None] | None = None
    _counted: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def needs(self) -> frozenset[str]:
        """Signals of the vision tower that are read at the hand-over."""
        return frozenset() if self.handover is None else frozenset(self.handover.needs)

    def left(self, tokens: int) -> int:
        """How many of an image's tokens the language model is given, separators not counted."""
        if tokens not in self._counted:
            count = tokens
            if self.vision is not None and self.facts.family.tokens == "patch":
                count = tower_counts(*self.vision, self.facts)[-1] - self.facts.skipped
            if self.handover is not None:
                count = tokenreduce.counts(self.handover, count, grid=grid_of(self.facts, count))[-1]
            self._counted[tokens] = count
        return self._counted[tokens]


def plan_of(settings: Settings, facts: Facts, *, split_heads: bool = False) -> Plan:
    """The plan for a model.

    Args:
        split_heads: whether each process has only some heads of the vision tower.

    Raises:
        OptionError, UnknownNameError, UnfitReducerError, UnsupportedModelError: what was asked for cannot be done, and
            why.
    """
    with names_from_file(ENTRY):
        handover = None if settings.handover is None else _at_handover(settings.handover, facts, split_heads)
        vision = None if settings.vision is None else _in_tower(settings.vision, facts)
    if vision is not None and handover is not None and frozenset(handover.needs):
        raise UnfitReducerError(
            f"{_kind(handover)} at the hand-over reads {', '.join(sorted(handover.needs))} of the vision tower, which "
            "is reduced itself, and tokens that are gone have none; use a method that reads the tokens alone, or leave "
            "vision out"
        )
    return Plan(facts, handover, vision)


def grid_of(facts: Facts, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of an image's tokens; None where they form no grid."""
    side = math.isqrt(tokens)
    return (side, side) if facts.family.tokens == "patch" and side * side == tokens else None


def _at_handover(given: Mapping[str, Any], facts: Facts, split_heads: bool) -> SiteReducer:
    reducer = make(dict(given))
    reducer.check_sites(1)
    reducer = reducer.within([0])
    backbone = Backbone("handover", 1, ("image",), facts.provides, False, f"{facts.model} in vLLM")
    try:
        active = reducer.bind(backbone)
    except UnfitReducerError as error:
        raise UnfitReducerError(_why(reducer, error, facts)) from error
    if isinstance(active, nn.Module):
        raise UnfitReducerError(f"{_kind(active)} has weights to learn, which no layer of the language model holds")
    if active.ragged:
        raise UnfitReducerError(
            f"{_kind(active)} with these options keeps as many tokens as a picture needs; {COUNT_REASON}"
        )
    read = sorted(frozenset(active.needs) & HEADS)
    if split_heads and read:
        fit = ", ".join(_fitting(facts, frozenset()))
        raise UnfitReducerError(f"{_kind(active)} reads {', '.join(read)}, {SPLIT_REASON.format(fit=fit)}")
    return active


def _why(reducer: BaseReducer, error: UnfitReducerError, facts: Facts) -> str:
    """In words of this place why a reducer cannot act at the hand-over."""
    needs = frozenset(reducer.needs)
    read = ", ".join(sorted(needs - facts.provides)) or "signals"
    fit = ", ".join(_fitting(facts, facts.provides)) or "none"
    if needs & PROMPT:
        return f"{_kind(reducer)} reads the prompt ({read}); {PROMPT_REASON.format(fit=fit)}"
    if needs & LAYERS:
        return (
            f"{_kind(reducer)} reads layers of the language model ({read}); {LANGUAGE_REASON}. Reducers that run: {fit}"
        )
    return f"{error} Reducers that run: {fit}"


def _fitting(facts: Facts, provides: frozenset[str]) -> list[str]:
    """Registered reducers that run at the hand-over with these signals."""
    backbone = Backbone("handover", 1, ("image",), provides, False, facts.model)
    found = []
    for name in tokenreduce.registry.default_registry().reducers:
        try:
            active = make(name).bind(backbone)
        except Exception:  # of a plugin, whatever it may be: it is not recommended
            continue
        if not isinstance(active, nn.Module) and not active.ragged:
            found.append(name)
    return found


def _in_tower(given: Mapping[str, Any], facts: Facts) -> tuple[BaseReducer, Sequence[int] | None]:
    own = dict(given)
    layers = own.pop("layers", None)
    if not facts.known:
        raise UnsupportedModelError(
            f"the vision tower of {facts.model} ({facts.tower}) cannot be reduced here: a tower of transformers takes "
            "its place, and this package knows how CLIP's and SigLIP's are read; reduce at the hand-over: "
            """{"tokenreduce": {"reducer": NAME, **options}}"""
        )
    reducer = make(own)
    if reducer.ragged:
        if facts.family.tokens != "patch":
            return reducer, layers  # every token is put back at its place
        raise UnfitReducerError(
            f"{_kind(reducer)} with these options keeps as many tokens as a picture needs; {COUNT_REASON}"
        )
    tower_counts(reducer, layers, facts)  # whatever cannot be done is refused here
    return reducer, layers


def tower_counts(reducer: BaseReducer, layers: Sequence[int] | None, facts: Facts) -> list[int]:
    """Tokens of a picture after each layer of a reduced tower, class token included."""
    return tokenreduce.counts(
        reducer,
        facts.patches + facts.prefix,
        depth=facts.read or 1,
        layers=layers,
        prefix=facts.prefix,
        stack="vision",
        provides=HEADS | {"value_norms", "readout_attention"} - (set() if facts.prefix else {"class_attention"}),
    )


def _kind(reducer: SiteReducer) -> str:
    return type(reducer.reducer).__name__
