"""Image features as the inner model's ``get_image_features`` gives them, with what the tower said beside them.

``generate()`` computes them before the first pass, and repeats them for beams; so they carry their notes with them.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.backbones import is_hooked
from tokenreduce.errors import UnsupportedCallError

from ..towers import stand_in
from .families import LVLM, feature_layer
from .merged_tower import MergedListener, MergedRead
from .tiles import Packing, PackListener, frames
from .tower_stack import CARRIED, Carried
from .towers import Asking, GridPool, Listener, Read, blocks_of
from .towers import family_of as tower_family

NOTES = "_tokenreduce"


@dataclass
class Notes:
    """What goes with the features of one call.

    Args:
        lengths: tokens of each image.
        grids: rows and columns of each (frames first, for a video), None where they form no grid.
        read: what the tower gives, None where nothing of it is asked for.
        parts: (n,) of each image the tile of each token, -1 for a separator; None where an image has one tile.
        ends: (n,) of each image that the tower has reduced: of each token the one that it is part of, -1 where it was
            dropped; None where it has reduced nothing.
        piece: tokens of each image, where the features of a sample come in one piece; None where they do not.
        pieces: of each image the grids that its tokens form one behind the other; None where an image has one.
    """

    lengths: list[int]
    grids: list[tuple[int, ...] | None]
    read: Read | MergedRead | None
    parts: list[Tensor] | None = None
    piece: int | None = None
    ends: Sequence[Tensor] | None = None
    pieces: list[list[tuple[int, int]]] | None = None


class Features:
    """Runs ``get_image_features`` (or that of videos) of the inner model and puts the notes on what it gives.

    Args:
        inner: the model.
        family: its row.
        modality: ``"image"`` or ``"video"``.
        asks: whether signals of the tower are asked for, told by ``asks.wanted``.
    """

    def __init__(self, inner: nn.Module, family: LVLM, modality: str, asks: Any) -> None:
        self.inner, self.family, self.modality, self.asks = inner, family, modality, asks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner, family = self.inner, self.family
        function = getattr(type(inner), f"get_{self.modality}_features")
        tower: Any = getattr(inner, family.tower)
        listener: Listener | MergedListener | None = None
        own: dict[str, Any] = {}
        carried = Carried()
        further = {CARRIED: carried} if self.asks.tower_reduced else {}
        if self.asks.wanted:
            listener = MergedListener(tower) if family.tokens == "merge" else Listener(tower, **further)
            own[family.tower] = listener
        elif further:
            own[family.tower] = Asking(tower, **further)
        pack: Any = getattr(inner, "pack_image_features", None)
        packs = PackListener(pack) if family.tokens == "tile" else None
        if packs is not None:
            own["pack_image_features"] = packs
        output = function(stand_in(inner, **own) if own else inner, *args, **kwargs)
        if isinstance(output, tuple):  # asked for with return_dict=False, which no pass of the model does
            return output
        piece = piece_of(inner, family, output)
        lengths = lengths_of(output, piece)
        packing = None if packs is None else packs.packing
        read: Read | MergedRead | None = None
        if isinstance(listener, MergedListener):
            read = MergedRead(listener, lengths)
        elif listener is not None:
            read = read_of(inner, family, listener, args, kwargs, packing)
        given = {**dict(zip(inspect.signature(function).parameters, (inner, *args), strict=False)), **kwargs}
        grids = grids_of(inner, family, lengths, given, self.modality)
        parts: list[Tensor] | None = None
        pieces: list[list[tuple[int, int]]] | None = None
        if packing is not None:
            parts = packing.parts(pooled(output)[0])
            pieces = packing.pieces(pooled(output)[0])
        elif isinstance(given.get("image_grids"), Tensor):
            pieces = [[(rows, columns), (h, w)] for rows, columns, h, w in given["image_grids"].tolist()]
        elif packs is not None:
            pixels = args[0] if args else kwargs["pixel_values_videos"]
            parts = frames(lengths, pixels.shape[1], pixels.device)
        ends = ends_of(output, carried.places)
        return noted(
            output, Notes(lengths, grids, read, parts, piece, ends, pieces), dispatched(inner, self.asks.outer)
        )


def dispatched(inner: nn.Module, outer: nn.Module | None) -> bool:
    """Whether hooks of accelerate stand before any part of the model."""
    return any(is_hooked(module) for module in (outer, *inner.modules()) if module is not None)


def noted(output: Any, notes: Notes, dispatched: bool) -> Any:
    """Image features with their notes.

    A hook that moves the features makes a copy of what is in them and nothing else, so the notes are in them until they
    are read; without hooks they are an attribute, and what others see of the features is what the library gives.
    """
    if dispatched:
        output[NOTES] = notes
    else:
        object.__setattr__(output, NOTES, notes)
    return output


def piece_of(inner: Any, family: LVLM, output: Any) -> int | None:
    """Tokens of each tile where the features of a sample come in one piece."""
    if family.groups != "mark":
        return None
    return int(output.last_hidden_state.shape[1]) // int(inner.config.scale_factor) ** 2


def lengths_of(output: Any, piece: int | None) -> list[int]:
    """Tokens of each item of features."""
    lengths = [len(one) for one in pooled(output)]
    return lengths if piece is None else [piece] * (sum(lengths) // piece)


def ends_of(output: Any, carried: Tensor | None) -> Sequence[Tensor] | None:
    """(n,) of each image what the tower's reduction made of its tokens; None where there was none."""
    if carried is None:
        return None
    skipped = carried.shape[1] - len(pooled(output)[0])  # a class token that the language model is not given
    return list(torch.where(carried >= 0, carried - skipped, -1)[:, skipped:])


def pooled(output: Any) -> Sequence[Tensor]:
    """The features of each image: (n, C) each."""
    features: Sequence[Tensor] = output.pooler_output
    return features


def notes_of(output: Any) -> Notes:
    """The notes on features.

    Raises:
        UnsupportedCallError: there are none.
    """
    notes: Notes | None = getattr(output, NOTES, None)
    if NOTES in output:
        OrderedDict.__delitem__(output, NOTES)
    if notes is None:
        raise UnsupportedCallError(
            "image features were given that the attached model has not computed in one piece: features from before "
            "attach (call model.get_image_features(...) again), or a prefill in chunks, where an image may be cut in "
            "two (leave prefill_chunk_size out)"
        )
    return notes


def read_of(
    inner: Any,
    family: LVLM,
    listener: Listener,
    args: Sequence[Any],
    given: Mapping[str, Any],
    packing: Packing | None = None,
) -> Read:
    """What is read of the tower in a call.

    Raises:
        UnsupportedCallError: several of its layers, or its embeddings.
    """
    kind = tower_family(listener.tower)
    assert kind is not None
    states, blocks = listener.states, blocks_of(listener.tower, kind)
    if family.read == "last":
        pool = GridPool(int(inner.config.mm_tokens_per_image**0.5)) if family.tokens == "pool" else None
        return Read(kind, blocks[-1], states[len(blocks) - 1], listener.output.last_hidden_state, 0, pool)
    layer = given.get("vision_feature_layer")
    layer = feature_layer(inner.config) if layer is None else layer
    if not isinstance(layer, int):
        raise UnsupportedCallError(f"signals of the vision tower were asked for, but {layer!r} of its layers are read")
    index = layer % len(states)
    if index == 0:
        raise UnsupportedCallError("signals of the vision tower were asked for, but its embeddings are read")
    strategy = given.get("vision_feature_select_strategy")
    strategy = strategy or getattr(inner.config, "vision_feature_select_strategy", "default")
    skipped = 1 if strategy == "default" else 0
    if family.tokens == "tile" and packing is None:
        raise UnsupportedCallError(
            "signals of the vision tower were asked for, but tokens of a video are made of several patches here; "
            "choose a reducer that reads the tokens alone"
        )
    return Read(kind, blocks[index - 1], states[index - 1], states[index], skipped, packing)


def grids_of(
    inner: Any, family: LVLM, lengths: Sequence[int], given: Mapping[str, Any], modality: str
) -> list[tuple[int, ...] | None]:
    """How the tokens of each image are laid out.

    Args:
        given: to the function that makes the features, by name.
        modality: ``"image"`` or ``"video"``.
    """
    if family.tokens == "tile":
        return [None] * len(lengths)
    sizes = given.get(f"{modality}_grid_thw")
    pixels, tiles = given.get("image_sizes"), given.get("image_grids")
    if pixels is not None and family.tokens == "cell":  # Mistral3: pictures of any shape
        side = inner.config.vision_config.patch_size * inner.config.spatial_merge_size
        return [(int(h) // side, int(w) // side) for h, w in pixels]
    if isinstance(tiles, Tensor):  # Molmo2: the whole picture made smaller, and overlapping crops behind it
        return [None if h * w else (rows, columns) for rows, columns, h, w in tiles.tolist()]
    if family.tokens == "merge" and isinstance(sizes, Tensor):
        merge = getattr(inner, family.tower).spatial_merge_size
        return [(t, h // merge, w // merge) if t > 1 else (h // merge, w // merge) for t, h, w in sizes.tolist()]
    sides = [round(n**0.5) for n in lengths]
    return [(side, side) if side * side == n else None for side, n in zip(sides, lengths, strict=True)]
