"""From a traced forward pass to a map of the picture: which final token each patch is part of.

Axes: B batch, n image tokens, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attachments.handle import Attachment
from ..attachments.reduced_stack import ReducedStack
from ..backbones.causal import CausalStack
from ..engine.causal.trace import PromptTrace
from ..errors import NoForwardError, UnsupportedCallError

IMAGE = "image"


@dataclass(frozen=True)
class Leg:
    """What one stack did to the image tokens of one sample.

    Args:
        name: of the stack.
        ends: for each image token at the start its final position in the whole sequence, -1 where dropped.
        first, last: number of image tokens at the start and at the end.
        begin: position of the first image token at the end.
        restored: whether the stack hands every token back at its place.
    """

    name: str
    ends: tuple[int, ...]
    first: int
    last: int
    begin: int
    restored: bool


def patch_owners(
    handle: Attachment,
    image_hw: tuple[int, int],
    patch_hw: tuple[int, int],
    sample: int = 0,
    mask: Tensor | None = None,
) -> tuple[tuple[int, int], list[int]]:
    """Rows and columns of patches, and for each patch in raster order the final token it is part of, -1 for none.

    Stacks that feed one another (a vision tower, then co-attention) are followed from the first to the last.

    Args:
        handle: attached with ``trace=True``, after a forward pass.
        image_hw: height and width in pixels of what the model was given.
        patch_hw: the same of a patch.
        sample: place of the picture in the batch.
        mask: (B, H, W) 1 for pixels and 0 for padding, where the model was given one. Padding has no owner.

    Raises:
        NoForwardError: no trace is kept, or no forward pass yet.
        UnsupportedCallError: the image tokens are not one for each patch, and why.
    """
    grid = image_hw[0] // patch_hw[0], image_hw[1] // patch_hw[1]
    if not grid[0] * grid[1]:
        raise UnsupportedCallError(
            f"a picture of {image_hw[0]} x {image_hw[1]} pixels has no patch of {patch_hw[0]} x {patch_hw[1]} in it"
        )
    legs = [made for one in handle.stacks.values() if (made := _leg(one, sample)) is not None]
    if not legs:
        raise UnsupportedCallError(
            f"none of the reduced stacks ({', '.join(handle.stacks)}) takes image tokens, so there is nothing to see"
        )
    ends, tokens = trace_legs(legs)
    places, patches = _places(mask, grid, sample)
    extras = tokens - patches
    if extras < 0:
        hint = (
            "give its mask, mask=inputs['pixel_mask'], if part of the picture is padding"
            if mask is None
            else "it picks some patches of large pictures; give it a smaller one"
        )
        raise UnsupportedCallError(
            f"the model made {tokens} image tokens of {grid[0]} x {grid[1]} patches, {-extras} too few to name the "
            f"patch of each: {hint}"
        )
    owner = [-1] * (grid[0] * grid[1])
    for place, end in zip(places, ends[extras:], strict=False):  # after the real patches there may be padding
        owner[place] = end
    return grid, owner


def prompt_owners(handle: Attachment, sample: int = 0) -> tuple[list[tuple[int, int]], list[int]] | None:
    """Rows and columns of the tokens of a language model's first image; the token each is part of, -1 for none.

    None where no language model is reduced. An image of several tiles has a grid for each of its pieces, whose tokens
    stand one behind the other.

    Raises:
        NoForwardError: no trace is kept, or no forward pass yet.
        UnsupportedCallError: the tokens form no grid.
    """
    if not any(isinstance(one.stack, CausalStack) for one in handle.stacks.values()):
        return None
    last = handle.last
    traces = [] if last is None else [record.trace for record in last.records]
    trace = next((one for one in traces if isinstance(one, PromptTrace)), None)
    if not isinstance(trace, PromptTrace):
        raise NoForwardError(
            "no trace is kept, or no pass with an image yet; attach with trace=True, then run the model"
        )
    grid, ends = trace.grid(sample), trace.image(sample).tolist()
    pieces = list(trace.pieces(sample))
    if grid is not None and len(grid) == 2:
        pieces = [(grid[0], grid[1])]
    if not pieces or sum(rows * columns for rows, columns in pieces) != len(ends):
        raise UnsupportedCallError(
            f"the {len(ends)} tokens of the first image of sample {sample} form no grid, so no patch can be named; "
            f"handle.last.trace.image({sample}) has them in the order of the prompt"
        )
    return pieces, ends


def trace_legs(legs: Sequence[Leg]) -> tuple[list[int], int]:
    """Where each image token of the first stack ends in the last one, and how many there are at the start.

    Raises:
        UnsupportedCallError: the stacks do not feed one another.
    """
    for order in permutations(legs):
        ends: list[int] | None = list(order[0].ends)
        for leg, after in pairwise(order):
            ends = _through(ends, leg, after) if ends is not None else None
        if ends is not None:
            return ends, order[0].first
    counts = "; ".join(f"{leg.name} {leg.first} to {leg.last}" for leg in legs)
    raise UnsupportedCallError(
        f"the reduced stacks do not feed one another, so their image tokens cannot be matched ({counts}); "
        "attach to one of them"
    )


def _through(ends: list[int], leg: Leg, after: Leg) -> list[int] | None:
    """Ends of ``leg`` followed through the next stack; None where that one begins with other tokens."""
    if after.first == leg.last:
        places = [end - leg.begin for end in ends]
        return [after.ends[place] if 0 <= place < after.first else -1 for place in places]
    if leg.restored and after.first == leg.first:
        return list(after.ends)
    return None


def _leg(reduced: ReducedStack, sample: int) -> Leg | None:
    """None for a stack without image tokens."""
    if not reduced.traced:
        raise NoForwardError("no trace is kept; attach with trace=True (replace=True replaces this attachment)")
    if reduced.last is None or reduced.last.trace is None:
        raise NoForwardError("no forward pass yet; call model(...) once, then draw what it did")
    trace = reduced.last.trace
    if IMAGE not in trace.first:
        return None
    if not 0 <= sample < len(trace):
        raise NoForwardError(f"the last forward pass had {len(trace)} samples, 0..{len(trace) - 1}; got {sample}")
    begin = 0
    for name, length in trace.last.items():
        if name == IMAGE:
            break
        begin += length
    if IMAGE not in trace.last:  # merged with other streams: any token of the sequence may stand for patches
        begin = 0
    ends = tuple(int(end) for end in trace.stream(IMAGE)[sample].tolist())
    restored = reduced.output in ("full", "repeated")
    left = trace.last.get(IMAGE, trace.tokens)
    return Leg(reduced.name, ends, trace.first[IMAGE], left, begin, restored)


def _places(mask: Tensor | None, grid: tuple[int, int], sample: int) -> tuple[list[int], int]:
    """Raster numbers of the real patches of a sample, and the most that a sample of the batch has."""
    everything = list(range(grid[0] * grid[1]))
    if mask is None:
        return everything, len(everything)
    small = F.interpolate(mask[:, None].to(torch.float32), size=grid)[:, 0] > 0  # nearest, as ViLT's
    real = small.flatten(1)
    return torch.nonzero(real[sample]).flatten().tolist(), int(real.sum(dim=1).max())
