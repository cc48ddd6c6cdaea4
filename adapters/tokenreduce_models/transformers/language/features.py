"""Image features as the inner model's ``get_image_features`` gives them, with what the tower said beside them.

``generate()`` computes them before the first pass, and repeats them for beams; so they carry their notes with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenreduce.errors import UnsupportedCallError

from ..towers import stand_in
from .families import LVLM
from .merged_tower import MergedListener, MergedRead
from .towers import GridPool, Listener, Read, blocks_of
from .towers import family_of as tower_family

NOTES = "_tokenreduce"


@dataclass
class Notes:
    """What goes with the features of one call.

    Args:
        lengths: tokens of each image.
        grids: rows and columns of each (frames first, for a video), None where they form no grid.
        read: what the tower gives, None where nothing of it is asked for.
    """

    lengths: list[int]
    grids: list[tuple[int, ...] | None]
    read: Read | MergedRead | None


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
        listener: Listener | MergedListener | None = None
        model: Any = inner
        if self.asks.wanted:
            tower = getattr(inner, family.tower)
            listener = MergedListener(tower) if family.tokens == "merge" else Listener(tower)
            model = stand_in(inner, **{family.tower: listener})
        output = function(model, *args, **kwargs)
        if isinstance(output, tuple):  # asked for with return_dict=False, which no pass of the model does
            return output
        lengths = [len(one) for one in pooled(output)]
        read: Read | MergedRead | None = None
        if isinstance(listener, MergedListener):
            read = MergedRead(listener, lengths)
        elif listener is not None:
            read = read_of(inner, family, listener, args, kwargs)
        grids = grids_of(inner, family, lengths, kwargs.get(f"{self.modality}_grid_thw", _second(args)))
        object.__setattr__(output, NOTES, Notes(lengths, grids, read))
        return output


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
    if notes is None:
        raise UnsupportedCallError(
            "image features were given that the attached model has not computed in one piece: features from before "
            "attach (call model.get_image_features(...) again), or a prefill in chunks, where an image may be cut in "
            "two (leave prefill_chunk_size out)"
        )
    return notes


def read_of(inner: Any, family: LVLM, listener: Listener, args: Sequence[Any], given: Mapping[str, Any]) -> Read:
    """What is read of the tower in a call.

    Raises:
        UnsupportedCallError: several of its layers, or its embeddings.
    """
    kind = tower_family(listener.tower)
    assert kind is not None
    states, blocks = listener.states, blocks_of(listener.tower, kind)
    if family.read == "last":
        side = int(inner.config.mm_tokens_per_image**0.5)
        return Read(kind, blocks[-1], states[len(blocks) - 1], listener.output.last_hidden_state, 0, GridPool(side))
    layer = given.get("vision_feature_layer")
    layer = inner.config.vision_feature_layer if layer is None else layer
    if not isinstance(layer, int):
        raise UnsupportedCallError(f"signals of the vision tower were asked for, but {layer!r} of its layers are read")
    index = layer % len(states)
    if index == 0:
        raise UnsupportedCallError("signals of the vision tower were asked for, but its embeddings are read")
    strategy = given.get("vision_feature_select_strategy") or inner.config.vision_feature_select_strategy
    skipped = 1 if strategy == "default" else 0
    return Read(kind, blocks[index - 1], states[index - 1], states[index], skipped)


def grids_of(inner: Any, family: LVLM, lengths: Sequence[int], sizes: Any) -> list[tuple[int, ...] | None]:
    """How the tokens of each image are laid out."""
    if family.tokens == "merge" and isinstance(sizes, Tensor):
        merge = getattr(inner, family.tower).spatial_merge_size
        return [(t, h // merge, w // merge) if t > 1 else (h // merge, w // merge) for t, h, w in sizes.tolist()]
    sides = [round(n**0.5) for n in lengths]
    return [(side, side) if side * side == n else None for side, n in zip(sides, lengths, strict=True)]


def _second(args: Sequence[Any]) -> Any:
    return args[1] if len(args) > 1 else None
