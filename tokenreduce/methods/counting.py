"""``counts``: how many tokens a reducer leaves, from shapes and options. Axes: N tokens, d width of anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.option_checks import is_count
from ..core.schedules import check_layers
from ..core.signals import SIGNALS
from ..core.site import Site
from ..core.tokens import Tokens
from ..errors import OptionError, UnfitReducerError
from ..registry.registry import default_registry
from .application import HANDOVER, bound, made_of, reduce_once
from .backbone import Backbone
from .reducer import BaseReducer
from .site_reducer import SiteReducer

WIDTH, TEXT, HEADS = 8, 4, 2
VISION = "vision"


def counts(
    reducer: str | SiteReducer | Mapping[str, Any],
    tokens: int,
    *,
    depth: int = 1,
    layers: Sequence[int] | None = None,
    prefix: int = 0,
    grid: tuple[int, int] | None = None,
    stack: str | None = None,
    provides: Collection[str] = SIGNALS,
    **options: Any,
) -> list[int]:
    """How many tokens are left after each place where a reducer acts, without a model and without a pass.

    ``tokenreduce.counts("divprune", 576, keep=64)`` is ``[64]``, and ``tokenreduce.counts("tome", 197, r=16, depth=12,
    prefix=1)`` has twelve numbers. The reducer runs once on small random tensors: what they hold does not count.

    Args:
        reducer: a name, ``{"reducer": name, **options}``, a :class:`Reducer`, or what its ``bind`` gave.
        tokens: N at first, protected ones included.
        depth: number of layers of the stack; 1 for the hand-over to a language model.
        layers: zero-based layers where it acts; its own choice if None.
        prefix: number of protected tokens in front.
        grid: rows and columns that the other tokens form, where they do.
        stack: what the reducer is told it acts in; ``"handover"`` for a depth of 1, else ``"vision"``.
        provides: signals that the stack gives; all if left out.
        **options: of the reducer.

    Raises:
        UnknownNameError, OptionError, UnknownOptionError, PluginError, LayerError: a name or an option that is not
            valid.
        UnfitReducerError: how many stay depends on what the tokens hold; or the reducer has weights to learn.
    """
    for name, value in (("tokens", tokens), ("depth", depth)):
        if not is_count(value) or value < 1:
            raise OptionError(f"{name} must be a positive integer, got {value!r}")
    if not is_count(prefix) or prefix > tokens:
        raise OptionError(f"prefix must be 0 to {tokens}, the number of tokens, got {prefix!r}")
    stack = stack or (HANDOVER if depth == 1 else VISION)
    backbone = Backbone(stack, depth, ("image",), frozenset(provides), False, "counts", width=WIDTH)
    active, chosen = _placed(reducer, options, backbone, layers)
    if active.ragged:
        raise UnfitReducerError(
            f"how many tokens {type(active.reducer).__name__} keeps depends on what they hold, so it is known after a "
            "pass only; give a number or a share that stays, such as keep=64"
        )
    sites = [Site(stack, layer, index, len(chosen), depth) for index, layer in enumerate(chosen)]
    return _through(active, tokens, prefix, grid, sites)


def _placed(
    reducer: Any, options: Mapping[str, Any], backbone: Backbone, layers: Sequence[int] | None
) -> tuple[SiteReducer, list[int]]:
    """What acts, and in which layers."""
    named = None if layers is None else check_layers(layers, backbone.depth, backbone.stack)
    if isinstance(reducer, SiteReducer) and not isinstance(reducer, BaseReducer):
        return bound(reducer, options, backbone), named or [0]
    made, name = made_of(reducer, options)
    with default_registry().blame("reducer", name):
        if named is None:
            own = [0] if backbone.depth == 1 else made.layers(backbone)
            named = check_layers(own, backbone.depth, backbone.stack)
        if backbone.depth == 1 or layers is not None:
            made = made.within(named)
    return bound(made, {}, replace(backbone, sites=len(named))), named


def _through(
    active: SiteReducer, count: int, prefix: int, grid: tuple[int, int] | None, sites: Sequence[Site]
) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    tokens = Tokens(torch.rand(1, count, WIDTH, generator=generator), prefix=prefix)
    left, grids = [], [grid]
    for site in sites:
        sources = _sources(tokens.count, count, generator)
        reduction = reduce_once(active, tokens, sources, site, count, grids)
        if reduction is not None:
            tokens, grids = tokens.after(reduction), [None]
        left.append(tokens.count)
    return left


def _sources(count: int, initial: int, generator: torch.Generator) -> dict[str, Callable[[], Any]]:
    """Every signal, in the shape that it has for one sample."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(SIGNALS, (1, count))
    for name in ("keys", "encoder_features", "rotated_keys", "normed_states"):
        shapes[name] = (1, count, WIDTH)
    for name in ("prompt_embeddings", "text_embeddings", "text_keys", "text_states"):
        shapes[name] = (1, TEXT, WIDTH)
    shapes |= {"class_features": (1, 1, WIDTH), "image_embeddings": (1, initial, WIDTH)}
    shapes |= {"text_cosine": (1, count, 1), "text_rows": (1, count, TEXT, HEADS)}
    made: dict[str, Callable[[], Any]] = {
        name: partial(torch.rand, shape, generator=generator) for name, shape in shapes.items()
    }
    made["columns"] = lambda: torch.arange(count)[None]
    made["text_columns"] = lambda: torch.arange(count, count + TEXT)[None]
    made["projector"] = lambda: _itself
    return made


def _itself(features: Tensor) -> Tensor:
    return features
