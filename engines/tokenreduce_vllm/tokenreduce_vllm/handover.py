"""Image features between projector and language model, reduced: the images of a call, those of equal length together.

Axes: U images of equal length, n tokens of each, K of them left, m separators, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tokenreduce

from .hearing import Hearing
from .packing import Packing
from .plan import Plan, grid_of

WHOLE = "class_features"


@dataclass(frozen=True)
class Image:
    """The tokens of one image.

    Args:
        x: (n + m, C) as vLLM has put them together.
        places: (n,) of those that are no separators.
        signals: what the tower gives for them, by name: (n, ...); of the class token (1, C').
    """

    x: Tensor
    places: Tensor
    signals: Mapping[str, Tensor]


def reduced(
    plan: Plan, images: Sequence[Tensor], heard: Hearing, packings: Sequence[Packing], projector: Callable[..., Any]
) -> list[Tensor]:
    """What the language model is given of each image: (K + m, C)."""
    found = list(told(plan, images, heard, packings))
    done: list[Tensor] = [image.x for image in found]
    for group in equal(found):
        for index, x in zip(group, reduce_equal(plan, [found[i] for i in group], projector), strict=True):
            done[index] = x
    return done


def told(plan: Plan, images: Sequence[Tensor], heard: Hearing, packings: Sequence[Packing]) -> Sequence[Image]:
    """The images with their separators and signals."""
    names = sorted(heard.wanted - {"projector"})
    if not packings:
        every = [
            Image(x, torch.arange(len(x), device=x.device), {name: heard.signal(name)[i] for name in names})
            for i, x in enumerate(images)
        ]
        return every
    found, begin = [], 0
    for x, packing in zip(images, packings, strict=True):
        places = (~packing.separators(x.device)).nonzero()[:, 0]
        own = slice(begin, begin + packing.tiles)
        signals = {name: carried(packing, name, heard.signal(name)[own], places) for name in names}
        found.append(Image(x, places, signals))
        begin += packing.tiles
    return found


def carried(packing: Packing, name: str, values: Tensor, places: Tensor) -> Tensor:
    """Values of the patches of an image's tiles (T, N, ...) as those of its tokens (n, ...)."""
    if name == WHOLE:
        return values[0]  # of the first tile, which is the whole of it
    flat = packing(values.flatten(2) if values.ndim > 2 else values.unsqueeze(-1))[places]
    return flat.reshape(-1, *values.shape[2:])


def equal(images: Sequence[Image]) -> list[list[int]]:
    """Numbers of images by how many tokens they have."""
    groups: dict[int, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(len(image.places), []).append(index)
    return list(groups.values())


def reduce_equal(plan: Plan, images: Sequence[Image], projector: Callable[..., Any]) -> list[Tensor]:
    """Images with equally many tokens, reduced together and each by itself: none depends on what else is served."""
    x = torch.stack([image.x[image.places] for image in images])
    given: dict[str, Any] = {name: torch.stack([image.signals[name] for image in images]) for name in images[0].signals}
    if "projector" in plan.needs:
        given["projector"] = projector
    assert plan.handover is not None
    grids = [grid_of(plan.facts, x.shape[1])] * len(images)
    first = torch.zeros(len(images), dtype=torch.long, device=x.device)  # a draw is the same for every image
    done = tokenreduce.apply(plan.handover, x, grids=grids, places=first, **given)
    slots = done.positions(compact=True)
    return [together(image, made, image.places[own]) for image, made, own in zip(images, done.x, slots, strict=True)]


def together(image: Image, made: Tensor, places: Tensor) -> Tensor:
    """What is left (K, C) and the separators, each at its place (K,) in the image."""
    separators = torch.ones(len(image.x), dtype=torch.bool, device=made.device)
    separators[image.places] = False
    others = separators.nonzero()[:, 0]
    order = torch.cat([places, others]).argsort()
    return torch.cat([made, image.x[others]])[order]
