"""``apply``: reduce tokens once, without a model. Axes: B batch, N tokens before, K after, C width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.columns import kept_columns
from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.signals import SIGNALS, WHOLE, Signals
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from ..errors import OptionError, UnfitReducerError, UnknownOptionError, UnsupportedCallError
from ..registry.registry import default_registry
from .backbone import Backbone
from .contract import check_reductions
from .factory import make_reducer
from .reducer import BaseReducer
from .site_reducer import SiteReducer

HANDOVER = "handover"


@dataclass(frozen=True)
class Applied:
    """What :func:`tokenreduce.apply` gives.

    Args:
        x: (B, K, C) the tokens that are left; of samples that keep different numbers, filled up behind.
        reduction: which tokens stayed and which were merged; it applies to anything else that belongs to the tokens.
        size: (B, K) how many tokens each stands for, None while all stand for one.
        real: (B, K) False for padding and for what fills up; None where all are real.
    """

    x: Tensor
    reduction: Reduction
    size: Tensor | None = None
    real: Tensor | None = None

    def positions(self, *, compact: bool = False) -> Tensor:
        """(B, K) at which of the input tokens' places each token that is left stands.

        A token that was kept, or that others were merged into, stands at its own; a new one where the last of its
        members stood.

        Args:
            compact: the same places dealt out anew: new tokens come last, one without members first.
        """
        batch, length = len(self.x), self.reduction.length
        return kept_columns(torch.arange(length, device=self.x.device).expand(batch, -1), self.reduction, not compact)


def apply(
    reducer: str | SiteReducer | Mapping[str, Any],
    x: Tensor,
    *,
    prefix: int = 0,
    size: Tensor | None = None,
    real: Tensor | None = None,
    grids: Sequence[tuple[int, int] | None] | None = None,
    places: Tensor | None = None,
    stack: str = HANDOVER,
    **given: Any,
) -> Applied:
    """Reduce image tokens once, without a model.

    ``tokenreduce.apply("divprune", x, keep=64).x`` is (B, 64, C). Nothing of a model is known here, so a method can
    read what it is given and no more: signals go by name, such as ``keys=(B, N, d)`` or ``class_attention=(B, N)``.

    Args:
        reducer: a name, ``{"reducer": name, **options}``, a :class:`Reducer`, or what its ``bind`` gave.
        x: (B, N, C) tokens, floating point.
        prefix: number of protected tokens in front.
        size: (B, N) how many tokens each stands for already.
        real: (B, N) False for padding.
        grids: rows and columns that the tokens of each sample form in raster order, None where they form none.
        places: (B,) number that a repeatable draw goes by; the place in the batch if left out.
        stack: what the reducer is told it acts in: ``"handover"`` to a language model, or the name of an encoder.
        **given: signals (``tokenreduce.methods.SIGNALS``: tensors with B and N in front; those that are not of single
            tokens have B in front; ``projector`` is a function), and options of the reducer.

    Raises:
        UnknownNameError, OptionError, UnknownOptionError, PluginError: a name or an option that is not valid.
        UnfitReducerError: the reducer reads a signal that is not given, or has weights to learn.
        UnsupportedCallError: shapes that do not fit.
    """
    signals = {name: given.pop(name) for name in SIGNALS if given.get(name) is not None}
    _check_shapes(x, prefix, signals, {"size": size, "real": real, "places": places}, grids)
    active = bound(reducer, given, Backbone(stack, 1, ("image",), frozenset(signals), False, "apply", width=x.shape[2]))
    sources = {name: partial(_itself, value) for name, value in signals.items()}
    tokens = Tokens(x, size, real, prefix)
    reduction = reduce_once(active, tokens, sources, Site(stack, 0, 0, 1, 1), x.shape[1], grids, places)
    if reduction is None:
        return Applied(x, tokens.identity(), size, real)
    left = tokens.after(reduction)
    return Applied(left.x, reduction, left.size, left.real)


def bound(reducer: Any, options: Mapping[str, Any], backbone: Backbone) -> SiteReducer:
    """What acts, from whatever stands for a reducer.

    Raises:
        as :func:`apply` has them.
    """
    if isinstance(reducer, SiteReducer) and not isinstance(reducer, BaseReducer):
        if options:
            raise UnknownOptionError(f"{', '.join(options)}: give options to the reducer before bind(...)")
        return _without_weights(reducer)
    made, name = made_of(reducer, options)
    with default_registry().blame("reducer", name):
        made.check_sites(max(backbone.sites, 1))
        try:
            return _without_weights(made.bind(backbone))
        except UnfitReducerError as error:
            wanted = ", ".join(sorted(frozenset(made.needs) - backbone.provides))
            raise UnfitReducerError(
                f"{error} There is no model here; pass {wanted} by name." if wanted else str(error)
            ) from error


def made_of(reducer: Any, options: Mapping[str, Any]) -> tuple[BaseReducer, str]:
    """A reducer and its name, from a name, a mapping or a reducer."""
    if isinstance(reducer, Mapping):
        own = dict(reducer)
        if "reducer" not in own:
            raise OptionError(f"a mapping names the reducer: {{'reducer': name, **options}}, got {reducer!r}")
        reducer, options = own.pop("reducer"), {**own, **options}
    return make_reducer(default_registry(), reducer, options)


def reduce_once(
    active: SiteReducer,
    tokens: Tokens,
    sources: Mapping[str, Callable[[], Any]],
    site: Site,
    initial: int,
    grids: Sequence[tuple[int, int] | None] | None = None,
    places: Tensor | None = None,
) -> Reduction | None:
    """The reduction of image tokens at a site, checked; None where all stay."""
    stream = Stream(
        tokens, Signals(sources, frozenset(active.needs)), False, initial=initial, places=places, grids=grids
    )
    streams = Streams({"image": stream}, "image", initial={"image": initial})
    with torch.no_grad():
        chosen = active.reduce_streams(streams, site)
    check_reductions(chosen, streams, active)
    reduction = chosen.get("image")
    if isinstance(reduction, Gate):
        raise UnsupportedCallError(
            f"{type(active.reducer).__name__} gives gates outside training; attach it to a model instead"
        )
    return reduction


def _without_weights(active: SiteReducer) -> SiteReducer:
    if isinstance(active, nn.Module):
        raise UnfitReducerError(
            f"{type(active.reducer).__name__} has weights, which are learned in a model; attach it to one "
            "(tokenreduce.attach), or use a method without weights"
        )
    return active


def _itself(value: Any) -> Any:
    return value


def _check_shapes(
    x: Any,
    prefix: int,
    signals: Mapping[str, Any],
    sides: Mapping[str, Tensor | None],
    grids: Sequence[tuple[int, int] | None] | None,
) -> None:
    """Raise UnsupportedCallError for tensors that do not belong to each other."""
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
        got = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise UnsupportedCallError(f"x must be tokens (B, N, C) in floating point, got {got}")
    batch, count = x.shape[:2]
    if not 0 <= prefix <= count:
        raise UnsupportedCallError(f"prefix must be 0 to {count}, the number of tokens, got {prefix!r}")
    shapes = {"size": (batch, count), "real": (batch, count), "places": (batch,)}
    for name, side in sides.items():
        if side is not None and tuple(side.shape) != shapes[name]:
            raise UnsupportedCallError(f"{name} must be {shapes[name]}, got {tuple(side.shape)}")
    for name, value in signals.items():
        if name == "projector":
            if not callable(value):
                raise UnsupportedCallError(f"projector must be a function of features, got {type(value).__name__}")
            continue
        front = (batch,) if name in WHOLE else (batch, count)
        if not isinstance(value, Tensor) or tuple(value.shape[: len(front)]) != front:
            told = f"({', '.join(map(str, front))}, ...)"
            what = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UnsupportedCallError(f"{name} must be a tensor {told} for these tokens, got {what}")
    if grids is not None and len(grids) != batch:
        raise UnsupportedCallError(f"grids must name one grid per sample, {batch} of them, got {len(grids)}")
