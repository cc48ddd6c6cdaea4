"""Where the images are in a call. Axes: B batch, q columns, n tokens of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import Prompt, last_real
from tokenreduce.errors import UnsupportedCallError

from .families import placeholders
from .features import Notes, pooled

Encoders = Mapping[str, Any]
"""Output of the vision tower by modality."""


class Tower:
    """What the tower gives, image by image in the order of the prompt.

    Args:
        where: notes of each image's call, and its place there.
        projector: from encoder features to the language model's space, None where there is none by itself.
    """

    def __init__(self, where: Sequence[tuple[Notes, int]], projector: nn.Module | None) -> None:
        self.where, self.projector = where, projector

    def signal(self, name: str, image: int) -> Tensor:
        notes, place = self.where[image]
        if notes.read is None:
            raise UnsupportedCallError(
                f"{name} was asked of the vision tower after the image features had been computed without it; compute "
                "them again while attached"
            )
        return notes.read.signal(name)[place]

    def project(self, features: Tensor) -> Tensor:
        assert self.projector is not None
        projected: Tensor = self.projector(features)
        return projected


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


def find_images(kinds: Tensor, encoders: Encoders, notes: Mapping[str, Notes], projector: nn.Module | None) -> Prompt:
    """The prompt that a call holds.

    Args:
        kinds: (B, q) 1 + number of the modality of a placeholder, in the order of ``encoders``; 0 for anything else.
        encoders: features by modality, beams included.
        notes: on them, beams not included.
    """
    device = kinds.device
    numbers = torch.full_like(kinds, -1)
    sources: list[tuple[str, int]] = []
    for kind, (name, output) in enumerate(encoders.items(), 1):
        lengths = torch.tensor([len(one) for one in pooled(output)], device=device)
        owners = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        here = kinds == kind
        if int(here.sum()) != len(owners):
            raise UnsupportedCallError(
                f"the prompt has {int(here.sum())} {name} tokens, the {name} features {len(owners)}; give each image "
                "as many placeholders as the processor does"
            )
        numbers[here] = owners + len(sources)
        sources += [(name, i) for i in range(len(lengths))]
    grid = numbers.tolist()
    order: list[list[int]] = [list(dict.fromkeys(number for number in row if number >= 0)) for row in grid]
    within = torch.full((len(sources) + 1,), -1, device=device)
    for row in order:
        for place, image in enumerate(row):
            within[image] = place
    lengths_of = [[row.count(image) for image in images] for row, images in zip(grid, order, strict=True)]
    originals = originals_of(order, sources, notes)
    where = [originals[image] for row in order for image in row]
    grids = [[originals[image][0].grids[originals[image][1]] for image in row] for row in order]
    return Prompt(within[numbers], lengths_of, grids=grids, encoded=Tower(where, projector))


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
