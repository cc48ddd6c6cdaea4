"""The value of an option with which images keep a given number of tokens on average. Axes: B images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import Inputs, call, evaluating
from ..attachments.lifecycle import attach
from ..backbones.dispatch import device_of
from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.site import Site
from ..core.streams import Streams
from ..errors import OptionError, UnfitReducerError, UnknownOptionError, nearest
from ..methods.backbone import Backbone
from ..methods.part import make
from ..methods.reducer import BaseReducer, reducer_name
from ..methods.site_reducer import SiteReducer
from ..methods.wrapper import BoundWrapper, WrapperReducer
from ..tasks.data import TARGETS, as_batch, on_device
from ..tasks.task import Batch

PLACING = ("layers", "adapter", "guide", "unit", "positions")  # arguments of attach that change what is kept
STEPS = 60  # a float has no more halves
MOST_OFF = 1.0  # tokens


def calibrate(
    model: nn.Module,
    reducer: str | BaseReducer | Mapping[str, Any],
    data: Any,
    *,
    option: str,
    mean_keep: float,
    within: tuple[float, float] = (1e-6, 1.0),
    **options: Any,
) -> float:
    """The value of a method's option with which images keep ``mean_keep`` tokens on average.

        energy = calibrate(model, "e-adaprune", batches, option="energy", mean_keep=64)
        tokenreduce.attach(model, "e-adaprune", energy=energy)

    So a method with a budget per image is compared with others at the same mean budget. Counted is what an image (a
    sample, with ``unit="sample"``) has after the method's last site, protected tokens not counted. By bisection, which
    meets ``mean_keep`` as closely as whole tokens allow, usually within ``1 / B`` of B images; each step is a pass
    over the data, 10 to 30 in all. The model is run in evaluation mode and left without an attachment.

    Args:
        model: without an attachment.
        reducer: a name, a :class:`Reducer`, or ``{"reducer": name, **options}``.
        data: the images to be met on: one batch, or a list or ``DataLoader`` of them, each a
            :class:`tokenreduce.tasks.Batch`, a mapping of keyword arguments, a tensor, or ``(inputs, targets)``.
        option: name of the option, a number; what is kept must rise or fall with it.
        mean_keep: number of tokens, at least 1.
        within: least and greatest value to try.
        **options: others of the method, and ``layers``, ``adapter``, ``guide``, ``unit``, ``positions`` of ``attach``.

    Raises:
        OptionError: a value or data that is not valid.
        UnknownOptionError: the method has no such option.
        UnfitReducerError: no value comes within a token of it; or what ``attach`` raises.
    """
    own = {name: value for name, value in options.items() if name not in PLACING}
    base = _with(reducer, own)
    if option not in base.option_defaults():
        raise UnknownOptionError(
            f"{reducer_name(base)} has no option {option!r}.{nearest(option, base.option_defaults())}"
        )
    _check(mean_keep, within)
    batches, placing = _batches(data), {name: options[name] for name in PLACING if name in options}

    def mean(value: float) -> tuple[float, int]:
        counted = Counted(inner=_with(reducer, {**own, option: value}))
        with attach(model, counted, **placing) as handle:
            (stack,) = handle.stacks.values()
            for inputs in _inputs(batches, model):
                call(model, inputs)
            found: list[Tensor] = getattr(stack.reducer, "found", [])
        if not found:
            raise OptionError("data holds no image, or its batches never reached the method; give pictures")
        counts = torch.cat(found).double()
        return float(counts.mean()), len(counts)

    with evaluating(model):
        value, got = _search(mean, within, float(mean_keep))
    if abs(got - mean_keep) > MOST_OFF:
        raise UnfitReducerError(
            f"{reducer_name(base)} cannot keep {mean_keep:g} tokens on average by {option} from {within[0]:g} to "
            f"{within[1]:g}: the closest is {got:.2f}, with {option}={value:.6g}; change mean_keep, within, or bounds "
            "such as min_keep and max_keep"
        )
    return value


def _search(
    mean: Callable[[float], tuple[float, int]], within: tuple[float, float], target: float
) -> tuple[float, float]:
    """The value whose mean is closest to the target, and that mean."""
    low, high = within
    (first, images), (last, _) = mean(low), mean(high)
    seen = {low: first, high: last}
    if min(first, last) < target < max(first, last):
        for _ in range(STEPS):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            seen[middle] = mean(middle)[0]
            if abs(seen[middle] - target) * images <= 0.5:
                break
            low, high = (middle, high) if (seen[middle] < target) == (first < last) else (low, middle)
    best = min(seen, key=lambda value: abs(seen[value] - target))
    return best, seen[best]


class Counted(WrapperReducer):
    """Does what the reducer inside does, and notes how many tokens it leaves of each image."""

    inner: Any = "none"

    by_sample = True

    @property
    def inside(self) -> Sequence[SiteReducer]:
        return (make(self.inner),)

    def layers(self, backbone: Backbone) -> list[int]:
        layers: list[int] = self.inside[0].reducer.layers(backbone)
        return layers

    def check_sites(self, sites: int) -> None:
        self.inside[0].reducer.check_sites(sites)

    def bind(self, backbone: Backbone) -> BoundCounted:
        return BoundCounted(self, [self.inside[0].reducer.bind(backbone)])


class BoundCounted(BoundWrapper):
    """On one model; ``found`` has (B,) of each call of its last site."""

    def __init__(self, reducer: BaseReducer, inside: Sequence[SiteReducer]) -> None:
        super().__init__(reducer, inside)
        self.found: list[Tensor] = []

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        reductions = self.inside[0].reduce_streams(streams, site)
        if site.index == site.total - 1:
            tokens, own = streams[streams.main].tokens, reductions.get(streams.main)
            left = tokens.after(own) if isinstance(own, Reduction) else tokens
            self.found.append(left.own_counts().cpu())
        return reductions


def _with(given: Any, options: Mapping[str, Any]) -> BaseReducer:
    """A reducer with these options; what is given stays as it is."""
    if isinstance(given, BaseReducer):
        changed: BaseReducer = replace(given, **options)  # type: ignore[type-var]
        return changed
    return make({**(given if isinstance(given, Mapping) else {"reducer": given}), **options})


def _check(mean_keep: Any, within: Any) -> None:
    number = isinstance(mean_keep, (int, float)) and not isinstance(mean_keep, bool)
    if not number or not mean_keep >= 1:
        raise OptionError(f"mean_keep must be a number of tokens, at least 1, got {mean_keep!r}")
    if not isinstance(within, (tuple, list)) or len(within) != 2 or not within[0] < within[1]:
        raise OptionError(f"within must be the least and the greatest value to try, such as (0.5, 1.0), got {within!r}")


def _batches(data: Any) -> Iterable[Any]:
    """Batches that can be gone through again and again."""
    if isinstance(data, (Batch, Mapping, Tensor)):
        return [data]
    if isinstance(data, Iterator) or not isinstance(data, Iterable):
        raise OptionError(
            f"data is gone through many times, so a batch, or a list or a DataLoader of batches is expected, got "
            f"{type(data).__name__}; pass list(data), or the DataLoader itself"
        )
    return data


def _inputs(batches: Iterable[Any], model: nn.Module) -> Iterator[Inputs]:
    device = device_of(model)
    for item in batches:
        if isinstance(item, Tensor):
            item = Batch((item,), None)
        elif isinstance(item, Mapping) and not set(TARGETS) & set(item):
            item = Batch(dict(item), None)
        yield on_device(as_batch(item), device).inputs
