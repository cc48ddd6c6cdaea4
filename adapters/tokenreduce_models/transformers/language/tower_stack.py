"""The vision tower in front of a language model: its blocks up to the one that is read, every token at its place there.

Where the projector works token by token, what the tower merged or dropped is carried on its output, and the language
model is given what is left. Elsewhere a grid of tokens is pooled, shuffled or unpadded, and it is given all of them.

Axes: B pictures, N tokens of one, C' width of the encoder.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenreduce.backbones import BlockView, Pass
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from ..towers import Head, TowerStack, Whole, stand_in
from .families import LVLM, feature_layer
from .tower_kinds import blocks_of, kind_of, view_of

CARRIED = "tokenreduce_carried"
"""Keyword of a reduced tower's call: a :class:`Carried`, for the tower to say there what it made of its tokens."""
UNKNOWN = {
    "PixtralVisionModel": "packs the pictures of a call into one sequence, whose patches are merged in cells of 2 x 2",
    "Molmo2VisionModel": "is read at several layers, and each token is pooled from a cell of patches",
}


class LanguageTower(TowerStack):
    """The blocks of a tower up to the one whose output is read; those after it are not computed.

    While a reducer is attached, the tower's output has no other whole hidden state than the one that is read.

    Args:
        inner: the language model with images.
        family: its row.

    Attributes:
        carries: whether the language model is given fewer tokens.
    """

    def __init__(self, inner: Any, family: LVLM) -> None:
        tower = getattr(inner, family.tower)
        kind = kind_of(tower)
        assert kind is not None
        super().__init__(kind, tower, kind.prefix, Head("full", whole=True), [])
        self.encoder = self.module
        self.module = tower
        self.layers = len(self.blocks)
        self.read = read_layer(inner, family, self.layers)
        self.last = family.read == "last" or (family.tokens == "cell" and self.read == self.layers)
        self.blocks = self.blocks[: self.read]
        self.carries = family.tokens == "patch"

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, self.family.block):
            raise UnsupportedModelError(f"{type(block).__name__} is not a {self.family.block.__name__}")
        return view_of(block, self.family)

    def plain(self, block: nn.Module, x: Tensor, mask: Tensor | None = None, **given: Any) -> Tensor:
        if "attention_mask" in inspect.signature(type(block).forward).parameters:
            return super().plain(block, x, mask, **given)
        config = getattr(block, self.family.parts.attention).config
        if any(kind in str(config._attn_implementation) for kind in ("flash", "flex")):
            config._attn_implementation = "eager"  # those kernels do not take float64
        out: Tensor = block.forward(x)  # InternVL's takes no mask
        return out

    def forward(self, run: Pass, *args: Any, **kwargs: Any) -> Any:
        tower = self.module
        carried: Carried | None = kwargs.pop(CARRIED, None)
        asked = kwargs.pop("output_hidden_states", getattr(tower.config, "output_hidden_states", False))
        self.check_asked(asked)
        blocks = Blocks(self, run, asked is not None and asked is not False)
        encoder = stand_in(self.encoder, **{self.family.blocks: (blocks,)})
        changed = stand_in(tower, **{self.family.holder: encoder})
        output = type(tower).forward(changed, *args, **kwargs, output_hidden_states=False)
        if not isinstance(output, tuple):
            if self.read < self.layers:  # what follows the block that is read was not computed
                output["last_hidden_state"] = output["pooler_output"] = None
            if blocks.seen:
                missing = [None] * (self.layers - self.read)
                output["hidden_states"] = States((*blocks.seen[:-1], blocks.restored, *missing))
        if self.carries and carried is not None:
            carried.places = run.places()
        return output

    def check_asked(self, asked: Any) -> None:
        """Raise UnsupportedCallError where another layer is to be read than at attach."""
        if asked is None or isinstance(asked, bool):
            return
        chosen = [asked] if isinstance(asked, int) else list(asked)
        if self.last or {index % (self.layers + 1) for index in chosen} == {self.read}:
            return
        raise UnsupportedCallError(other_state(chosen))

    def start(self, run: Pass, x: Tensor, mask: Any, given: Any) -> None:
        if mask is not None and not bool((mask == 0 if mask.is_floating_point() else mask).all()):
            raise UnsupportedCallError(
                "pixel_attention_mask hides parts of a picture, but while a reducer is attached to the vision tower "
                "every patch is real; give pictures that fill their frame, or detach() first"
            )
        run.start(x, {"image": x.shape[1]})

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        family = self.family
        return [(self.module, "forward", family.tower.forward), (self.encoder, "forward", family.encoder.forward)]


@dataclass
class Carried:
    """What a reduced tower says of one call: a plain object, which hooks around the tower hand through as it is.

    Attributes:
        places: (B, N) of each token the one that it is part of, -1 where it was dropped; None where nothing was.
    """

    places: Tensor | None = None


class States(tuple[Any, ...]):
    """Hidden states of which one has every token at its place; to read another one by its number is refused."""

    def __getitem__(self, index: Any) -> Any:
        chosen = super().__getitem__(index)
        if isinstance(chosen, Tensor) and chosen.shape[1] == self.tokens:
            return chosen
        if isinstance(index, slice):
            return chosen
        raise UnsupportedCallError(other_state(index))

    @property
    def tokens(self) -> int:
        """Tokens before the first block."""
        return len(next(iter(self))[0])


def other_state(index: Any) -> str:
    """What an error says where another layer is to be read than at attach."""
    return (
        f"hidden state {index} of the vision tower was asked for, but while a reducer is attached only the one that "
        "was read at attach has every token at its place, and blocks after it are not computed; leave "
        "vision_feature_layer as it was, or detach() and attach again"
    )


class Blocks(Whole):
    """All blocks that are run as the one block of a stand-in; keeps what they gave.

    Attributes:
        seen: tokens before the first block and after each, if asked for.
        restored: (B, N, C') every token at its place behind the last one.
    """

    restored: Tensor

    def __init__(self, stack: LanguageTower, run: Pass, notes: bool) -> None:
        super().__init__(stack, run)
        self.seen: list[Tensor] = []
        self.notes = notes

    def through(self, x: Tensor) -> Tensor:
        self.restored = self.run(x, self.seen if self.notes else None)
        return self.restored


def read_layer(inner: Any, family: LVLM, layers: int) -> int:
    """How many blocks of the tower are computed for what is read."""
    if family.read == "last":
        return layers
    return int(feature_layer(inner.config)) % (layers + 1)


def tower_refusal(inner: Any, family: LVLM) -> str | None:
    """Why the vision tower of an inner model cannot be reduced; None where it can."""
    tower = getattr(inner, family.tower)
    kind, name = kind_of(tower), type(tower).__name__
    instead = "; reduce at the hand-over instead"
    if family.tokens == "merge":
        return (
            f"{name} puts the patches of all pictures into one sequence (some attend in windows), and merges cells of "
            f"2 x 2, which stay whole or go{instead}"
        )
    if kind is None:
        return f"{name} {UNKNOWN.get(name, 'has blocks that this adapter does not know')}{instead}"
    if family.read == "last":
        return None
    layer = feature_layer(inner.config)
    if not isinstance(layer, int):
        return f"several layers of {name} are read (vision_feature_layer = {layer!r}), each with every token{instead}"
    if layer % (len(blocks_of(tower, kind)) + 1) == 0:
        return f"the embeddings of {name} are read, before any of its blocks{instead}"
    return None
