"""The contract for language models that are given images: the library's own layers, with cuts between them.

The world outside the layers is *logical*: masks, positions, cache lengths and logits are those of the whole prompt.
Only the layers see what is left (*physical*). An adapter runs the library's forward with every layer replaced, for one
call, by one that asks the pass (:class:`CausalPass`) what its layer is to see.

Axes: B batch, q logical columns of this call, p tokens that are left of them, P keys, C width, n tokens of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .dispatch import moved
from .kv_cache import Kept
from .stack import Stack

TEXT_BEHIND = frozenset({"text_rows", "text_columns", "text_embeddings", "text_keys", "text_states"})
"""Signals of the text behind an image, up to the token that is read."""
BETWEEN_LAYERS = TEXT_BEHIND | {
    "next_readout_attention",
    "rotated_keys",
    "normed_states",
    "columns",
    "image_embeddings",
}
"""Signals that only the layers of a language model give."""


class Encoded(Protocol):
    """What the vision tower has made of the images of one call, in the order of the prompt."""

    def signal(self, name: str, image: int) -> Tensor:
        """One signal of one image: (n, ...) per token, or (1, C') for ``class_features``."""
        ...

    def ends(self, image: int) -> Tensor | None:
        """(n,) of each token of one image, where the tower reduced them, the one that it is part of, -1 where it was
        dropped; None where it did not."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """Encoder features (U, k, C') in the space of the language model (U, k, C)."""
        ...


@dataclass(frozen=True)
class Prompt:
    """Where the images are in one call.

    Args:
        numbers: (B, q) number of the image, within its sample, that a column is of; -1 for anything else.
        lengths: tokens of each image of each sample.
        real: (B, q) False for padding; None where there is none.
        grids: rows and columns of the tokens of each image, None where they form no grid.
        pieces: of an image of several tiles, rows and columns of each grid that its tokens form one behind the other;
            empty for other images.
        encoded: what the tower gives, images counted through all samples; None where it was not asked.
        tiles: (B, q) number of the tile, within its image, that a column is of; None where images have none.
        separators: (B, q) True for tokens between rows of an image, which stay; None where there are none.
        added: (B, q, C) each, what is added to all tokens after the first, second ... layer.
        carried: whether the tower has reduced its tokens, one for each placeholder: what it merged or dropped does not
            enter the first layer.
        scored: (B,) the column whose attention rows are the signals of the language model's readout; None for the last.
    """

    numbers: Tensor
    lengths: Sequence[Sequence[int]]
    real: Tensor | None = None
    grids: Sequence[Sequence[tuple[int, ...] | None]] = ()
    pieces: Sequence[Sequence[Sequence[tuple[int, int]]]] = ()
    encoded: Encoded | None = None
    scored: Tensor | None = None
    tiles: Tensor | None = None
    separators: Tensor | None = None
    added: Sequence[Tensor] = ()
    carried: bool = False

    def on(self, device: torch.device) -> Prompt:
        """With what says where the images are on a device; itself where it is there already."""
        if self.numbers.device == device:
            return self
        names = ("numbers", "real", "tiles", "separators", "scored")
        return replace(self, **{name: moved(getattr(self, name), device) for name in names})

    def passes(self) -> int:
        """How many pictures the tower has seen: images, or their tiles."""
        if self.tiles is None:
            return sum(map(len, self.lengths))
        most = int(self.tiles.max()) + 1
        owners = torch.where(self.numbers >= 0, self.numbers * most + self.tiles, -1)
        return sum(len(set(row) - {-1}) for row in owners.tolist())


@dataclass(frozen=True)
class LayerCall:
    """What a layer is given besides its tokens.

    Args:
        mask: (B or 1, 1, q, L) bool or additive, (B, L) bool, or None for causal attention without padding.
        rotary: the positions as the layers take them (cosines and sines): tensors (..., q, d), however nested.
        past: logical tokens that the layer's cache holds already.
        kept: what the entries of its cache are, None where they are all of those.
        cached: whether there is a cache.
        extra: whatever else, as the library gives it.
    """

    mask: Tensor | None
    rotary: Any
    past: int = 0
    kept: Kept | None = None
    cached: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, **values: Any) -> LayerCall:
        """The same with other values."""
        return replace(self, **values)


@dataclass
class Seen:
    """What one layer has done in a pass: the source of its signals.

    Args:
        index: the layer.
        x: (B, p, C) its input.
        call: as it was called, physical.
        keys: (B, G, P, d) keys as its attention had them, None where they were not noted.
        out: (B, p, C) its output, with what the prompt adds behind it; None for a layer that is still to come.
    """

    index: int
    x: Tensor
    call: LayerCall
    keys: Any = None
    out: Tensor | None = None

    def on(self, device: torch.device) -> Seen:
        """The same on a device; itself where it is there already."""
        sides = (self.x, self.keys, self.out, self.call.mask)
        if all(not isinstance(side, Tensor) or side.device == device for side in sides):
            return self
        x, keys, out, mask = (moved(side, device) for side in sides)
        extra = {**self.call.extra, "keys": moved(self.call.extra.get("keys"), device)}
        call = self.call.changed(mask=mask, rotary=moved(self.call.rotary, device), extra=extra)
        return Seen(self.index, x, call, keys, out)


Compute = Callable[[Tensor, LayerCall, "Kept | None", bool], tuple[Tensor, Any]]
"""Runs the library's layer: tokens, what else it is given, what its cache entries are afterwards (None: all), and
whether keys are wanted. Gives the tokens, and the noted keys or None."""


class CausalPass(Protocol):
    """One pass of a language model, as its adapter is given it."""

    active: bool
    """Whether it reduces anything, that is, is not paused."""

    def begin(self, prompt: Prompt | None) -> None:
        """Say what the call holds, before the first layer; None where there is no new image."""
        ...

    def layer(self, index: int, count: int, x: Tensor, call: LayerCall, compute: Compute) -> Tensor:
        """Run one of ``count`` layers on what is left, with the cuts around it."""
        ...

    def added(self, index: int) -> Tensor | None:
        """(B, p, C) what of the prompt's ``added`` goes to the tokens that are left after layer ``index``; None while
        every token is at its column."""
        ...

    def spread(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hidden states before each layer and at the end, every token at its column; dropped ones with their last."""
        ...

    def end(self, kv_bytes: tuple[int, int] | None) -> None:
        """Close the record; bytes of keys and values with every token, and as held."""
        ...


class LanguageModel:
    """One language model with its images, as the engine drives it; the stacks of a model share one.

    Attributes:
        module: the model whose ``forward`` takes images and text, replaced while attached.
        tower_signals: the signals of its vision tower.
        compact: whether positions can be counted anew; otherwise why not.
        tiled: whether an image may be of several tiles.
        wanted: the signals of the tower that attached reducers ask for; set by ``attach``.
        reads_rows: whether one of them asks for attention rows of a layer; set by ``attach``.
        tower_reduced: whether a reducer acts in its vision tower; set by ``attach``.
    """

    module: nn.Module
    tower_signals: frozenset[str] = frozenset()
    compact: bool | str = True
    tiled: bool = False
    wanted: frozenset[str] = frozenset()
    reads_rows: bool = False
    tower_reduced: bool = False

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers, looked up now."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define layers")

    def forward(self, run: CausalPass, *args: Any, **kwargs: Any) -> Any:
        """What the replaced ``forward`` does: the library's own, with ``run`` between the layers."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define forward(run, ...)")

    def head_rows(self, seen: Seen, rows: Tensor) -> Tensor:
        """Attention (B, H, r, P) that queries at physical places ``rows`` (B, r) pay in a layer."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define head_rows(seen, rows)")

    def rows(self, seen: Seen, rows: Tensor) -> Tensor:
        """The same (B, r, P) averaged over heads."""
        return self.head_rows(seen, rows).mean(dim=1)

    def keys(self, seen: Seen) -> Tensor:
        """Head-mean keys (B, p, d) of a layer before positions are put in."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define keys(seen)")

    def rotated_keys(self, seen: Seen) -> Tensor:
        """Keys (B, G, p, d) of a layer with positions."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define rotated_keys(seen)")

    def normed(self, x: Tensor) -> Tensor:
        """Tokens (B, p, C) after the norm that follows the last layer."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define normed(x)")

    def rotary(self, x: Tensor, positions: Tensor, index: int) -> Any:
        """Positions (B, p) as a layer takes them."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define rotary(x, positions, index)")

    def cost(self, index: int) -> tuple[int, int]:
        """Weights of a layer that multiply each token, and the width of its attention's products."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define cost(index)")

    def tower_macs(self, prompt: Prompt) -> tuple[int, int]:
        """Multiply-adds of the vision tower and of the projector for all images of a call."""
        return 0, 0

    def check(self) -> None:
        """Raise UnsupportedCallError where a change of the model since attach would not act."""

    def replacements(self) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
        """Further replacements: (module, attribute, picklable callable)."""
        return []

    def prove(self) -> None:
        """Check that the library's layers and loop are what this adapter takes them for.

        Raises:
            UnsupportedModelError: they are not, and where they differ.
        """


class CausalStack(Stack):
    """A place in a language model where image tokens go: its entry, or between its layers.

    Attributes:
        language: the model, shared by its stacks.
        unit: what is reduced by itself unless the user says otherwise: ``"image"`` or ``"sample"``.
    """

    language: LanguageModel
    unit: str
    output = "full"

    @property
    def depth(self) -> int:
        """Number of layers; 0 for the hand-over, which has none."""
        return len(self.blocks)


class HandOver(CausalStack):
    """The entry of the language model: tokens of images as the projector gives them."""

    name, unit = "handover", "image"

    def __init__(self, language: LanguageModel) -> None:
        self.language, self.module = language, language.module
        self.blocks: Sequence[nn.Module] = ()
        self.prefix = {"image": 0}

    def provides(self, index: int) -> frozenset[str]:
        return self.language.tower_signals | {"prompt_embeddings"}


class Language(CausalStack):
    """The decoder layers: a site of layer l lies after it."""

    name, unit = "language", "sample"

    def __init__(self, language: LanguageModel) -> None:
        self.language, self.module = language, language.module
        self.prefix = {"image": 0}

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        return self.language.layers

    def provides(self, index: int) -> frozenset[str]:
        return BETWEEN_LAYERS | {"keys", "readout_attention", "text_attention"}


def pick(side: Tensor, rows: Tensor, dim: int) -> Tensor:
    """Gather along ``dim`` at rows (B, r), the batch first in ``side`` or absent from it; -1 takes the first.

    A side tensor whose first axis is not the batch (the three axes of mRoPE) has it second.
    """
    rows, dim = rows.clamp(min=0).to(side.device), dim % side.ndim
    batch = dim - 1 if side.ndim - dim == 2 else 0  # (..., B, q, d): the axis before the tokens
    shape = [1] * side.ndim
    shape[batch], shape[dim] = rows.shape
    if side.shape[batch] == 1 and rows.shape[0] > 1:
        side = side.expand(*[rows.shape[0] if d == batch else size for d, size in enumerate(side.shape)])
    wanted = [rows.shape[1] if d == dim else size for d, size in enumerate(side.shape)]
    return side.gather(dim, rows.view(shape).expand(wanted))


def pick_all(sides: Any, rows: Tensor) -> Any:
    """Every tensor (..., B or 1, q, d) of a nest of tuples and dictionaries at rows (B, r)."""
    if isinstance(sides, Tensor):
        return pick(sides, rows, sides.ndim - 2)
    if isinstance(sides, Mapping):
        return {name: pick_all(side, rows) for name, side in sides.items()}
    return None if sides is None else tuple(pick_all(side, rows) for side in sides)


def last_real(real: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    """(B,) the last column that is no padding."""
    if real is None:
        return torch.full((batch,), length - 1, device=device)
    return length - 1 - real.flip(1).int().argmax(dim=1)
