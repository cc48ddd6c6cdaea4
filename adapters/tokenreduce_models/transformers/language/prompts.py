"""Where the images are in a call. Axes: B batch, q columns, n tokens of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import Prompt, last_real
from tokenreduce.errors import UnsupportedCallError

from .families import placeholders
from .features import Notes, lengths_of
from .tiles import marked, runs

Encoders = Mapping[str, Any]
"""Output of the vision tower by modality."""


class Tower:
    """What the tower gives, image by image in the order of the prompt.

    Args:
        where: of each image, the notes and the places there of what it is made of.
        projector: from encoder features to the language model's space, None where there is none by itself.
    """

    def __init__(self, where: Sequence[Sequence[tuple[Notes, int]]], projector: nn.Module | None) -> None:
        self.where, self.projector = where, projector

    def signal(self, name: str, image: int) -> Tensor:
        parts = []
        for notes, place in self.where[image]:
            if notes.read is None:
                raise UnsupportedCallError(
                    f"{name} was asked of the vision tower after the image features had been computed without it; "
                    "compute them again while attached"
                )
            parts.append(notes.read.signal(name)[place])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def ends(self, image: int) -> Tensor | None:
        ((notes, place), *others) = self.where[image]
        return None if notes.ends is None or others else notes.ends[place]

    def project(self, features: Tensor) -> Tensor:
        assert self.projector is not None
        projected: Tensor = self.projector(features)
        return projected.to(features.device)


def real_tokens(mask: Any, columns: int) -> Tensor | None:
    """(B, q) False for padding, from an attention mask in any form that the library takes."""
    if isinstance(mask, Mapping):
        mask = next((one for one in mask.values() if one is not None), None)
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 2:
        real = mask[:, -columns:].bool()
    else:
        own = mask[:, 0, :, -columns:].diagonal(dim1=1, dim2=2)
        real = own if own.dtype == torch.bool else own == 0
    return None if bool(real.all()) else real


def find_images(
    kinds: Tensor,
    encoders: Encoders,
    notes: Mapping[str, Notes],
    projector: nn.Module | None,
    groups: str = "one",
    ids: Tensor | None = None,
) -> Prompt:
    """The prompt that a call holds.

    Args:
        kinds: (B, q) 1 + number of the modality of a placeholder, in the order of ``encoders``; 0 for anything else.
        encoders: features by modality, beams included.
        notes: on them, beams not included.
        projector: from encoder features to the language model's space, None where there is none by itself.
        groups: how items of features belong to images, as in the table of families.
        ids: (B, q) the prompt, None where it came as embeddings.
    """
    device = kinds.device
    items = torch.full_like(kinds, -1)
    sources: list[tuple[str, int]] = []
    for kind, (name, output) in enumerate(encoders.items(), 1):
        lengths = torch.tensor(lengths_of(output, notes[name].piece), device=device)
        owners = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        here = kinds == kind
        if int(here.sum()) != len(owners):
            raise UnsupportedCallError(
                f"the prompt has {int(here.sum())} {name} tokens, the {name} features {len(owners)}; give each image "
                "as many placeholders as the processor does"
            )
        items[here] = owners + len(sources)
        sources += [(name, i) for i in range(len(lengths))]
    grid = items.tolist()
    order: list[list[int]] = [list(dict.fromkeys(item for item in row if item >= 0)) for row in grid]
    originals = originals_of(order, sources, notes)
    images = [
        grouped(row, mine, groups, None if ids is None else ids[b].tolist())
        for b, (row, mine) in enumerate(zip(grid, order, strict=True))
    ]
    within = torch.full((len(sources) + 1,), -1, device=device)
    tile = torch.full((len(sources) + 1,), 0, device=device)
    for sample in images:
        for place, image in enumerate(sample):
            for number, item in enumerate(image):
                within[item], tile[item] = place, number
    numbers, tiles = within[items], tile[items]
    separators = torch.zeros_like(numbers, dtype=torch.bool)
    if any(noted.parts is not None for noted in notes.values()):
        for item, (noted, place) in originals.items():
            if noted.parts is not None:
                part = noted.parts[place].to(device)
                tiles[items == item] = part
        separators = (numbers >= 0) & (tiles < 0)
        numbers = torch.where(separators, -1, numbers)
    rows = numbers.tolist()
    lengths_in = [[row.count(place) for place in range(len(sample))] for row, sample in zip(rows, images, strict=True)]
    where = [[originals[item] for item in image] for sample in images for image in sample]
    grids = [[grid_of([originals[item] for item in image]) for image in sample] for sample in images]
    pieces = [[pieces_of([originals[item] for item in image]) for image in sample] for sample in images]
    return Prompt(
        numbers,
        lengths_in,
        grids=grids,
        pieces=pieces,
        encoded=Tower(where, projector),
        tiles=torch.where(numbers >= 0, tiles, -1),
        separators=separators if bool(separators.any()) else None,
        carried=any(noted.ends is not None for noted in notes.values()),
    )


def grid_of(items: Sequence[tuple[Notes, int]]) -> tuple[int, ...] | None:
    """How the tokens of an image of these items are laid out; None for several tiles."""
    notes, place = items[0]
    return notes.grids[place] if len(items) == 1 else None


def pieces_of(items: Sequence[tuple[Notes, int]]) -> list[tuple[int, int]]:
    """The grids that the tokens of an image of several tiles form, one behind the other; empty where they do not."""
    if len(items) == 1:
        notes, place = items[0]
        return [] if notes.pieces is None else notes.pieces[place]
    grids = [notes.grids[place] for notes, place in items]
    flat = [(grid[0], grid[1]) for grid in grids if grid is not None and len(grid) == 2]
    return flat if len(flat) == len(items) else []


def grouped(row: Sequence[int], items: Sequence[int], groups: str, ids: Sequence[int] | None) -> list[list[int]]:
    """The items of each image of one sample, whose columns are those where ``row`` has their number."""
    if groups == "one" or len(items) < 2:
        return [[item] for item in items]
    columns = [[column for column, one in enumerate(row) if one == item] for item in items]
    if groups == "run":
        found = runs(columns)
    else:
        found = [[place] for place in range(len(items))] if ids is None else marked(columns, ids)
    return [[items[place] for place in image] for image in found]


def originals_of(
    order: Sequence[Sequence[int]], sources: Sequence[tuple[str, int]], notes: Mapping[str, Notes]
) -> dict[int, tuple[Notes, int]]:
    """Of each image in a batch the notes and the place there; beams of a sample stand side by side and share theirs."""
    found: dict[int, tuple[Notes, int]] = {}
    for name, noted in notes.items():
        mine = [[image for image in row if sources[image][0] == name] for row in order]
        times = max(sum(map(len, mine)) // max(len(noted.lengths), 1), 1)
        place = 0
        for first in range(0, len(mine), times):
            for row in mine[first : first + times]:
                found.update({image: (noted, place + i) for i, image in enumerate(row)})
            place += len(mine[first])
    return found


def protect_last(numbers: Tensor, lengths: list[list[int]], real: Tensor | None) -> Tensor:
    """The last token is no image's: the head reads it."""
    last = last_real(real, numbers.shape[0], numbers.shape[1], numbers.device)[:, None]
    ends = numbers.gather(1, last)[:, 0].tolist()
    if max(ends) < 0:
        return numbers
    for images, image in zip(lengths, ends, strict=True):
        if image >= 0:
            images[image] -= 1
    return numbers.scatter(1, last, -1)


def check_placeholders(ids: Any, config: Any) -> None:
    """Raise UnsupportedCallError for placeholders without an image; a single token (decoding) is not looked at."""
    if not isinstance(ids, Tensor) or ids.shape[1] < 2:
        return
    if any(bool((ids == token).any()) for token in placeholders(config).values()):
        raise UnsupportedCallError(
            "the prompt has tokens that stand for an image, but no image came with it; pass pixel_values. A prefill in "
            "chunks does this too: leave prefill_chunk_size out"
        )


def check_positions(positions: Any, mask: Any, given: Mapping[str, Any]) -> None:
    """Raise UnsupportedCallError for several sequences packed into one."""
    packed = given.get("cu_seq_lens_q") is not None or given.get("seq_idx") is not None
    if isinstance(positions, Tensor) and mask is None:
        text = positions if positions.ndim == 2 else positions[0]
        packed = packed or bool((text.diff(dim=-1) < 0).any())
    if packed:
        raise UnsupportedCallError(
            "several sequences are packed into one, where images of one would be taken for those of another; give "
            "one sequence per sample, padded, with an attention_mask"
        )
