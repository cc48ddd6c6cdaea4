"""Synthetic streams, to try a reducer without a model. Axes: B batch, n tokens of a stream, d key width, C width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies
from torch import Tensor

from ..backbones.causal import BETWEEN_LAYERS
from ..backbones.layout import Layout
from ..core.heads import HeadMasks
from ..core.signals import SIGNALS, TOWER_FEATURES, Signals
from ..core.site import Site
from ..core.streams import Stream, Streams
from ..core.tokens import Tokens
from ..methods.backbone import Backbone

GIVEN = tuple(name for name in SIGNALS if name not in TOWER_FEATURES)
"""Signals that synthetic streams have: those of a block."""
WIDTH, KEY, DEPTH, TEXT, HEADS = 4, 4, 12, 6, 2


def stream(
    x: Tensor,
    *,
    size: Tensor | None = None,
    real: Tensor | None = None,
    prefix: int = 0,
    training: bool = False,
    **signals: Tensor,
) -> Stream:
    """A stream of tokens (B, n, C) with any signals: ``keys`` (B, n, d), ``class_attention`` (B, n), ..."""
    sources = {name: partial(_given, value) for name, value in signals.items()}
    return Stream(Tokens(x, size, real, prefix), Signals(sources, frozenset(signals)), training, initial=x.shape[1])


def site(layer: int = 0, index: int = 0, total: int = 1, depth: int = DEPTH) -> Site:
    """A place to reduce at: the only one of its stack unless said otherwise."""
    return Site("encoder", layer, index, total, depth)


def synthetic_backbone(
    streams: tuple[str, ...] = ("text", "image"), one_sequence: bool = True, width: int = WIDTH, sites: int = 1
) -> Backbone:
    """What a reducer is told of the stack that these streams could come from: every signal is there."""
    widths, protected = dict.fromkeys(streams, width), {name: int(name == "text") for name in streams}
    heads = {"+".join(streams): (HEADS,)} if one_sequence else dict.fromkeys(streams, (HEADS,))
    return Backbone(
        "encoder",
        DEPTH,
        streams,
        frozenset(GIVEN),
        one_sequence,
        "synthetic streams",
        False,
        width,
        sites,
        widths,
        protected,
        heads,
    )


@dataclass(frozen=True)
class Draw:
    """What streams are made of.

    Args:
        length: tokens of the image stream, protected ones included; the text stream has a few.
        prefix: how many are protected.
        padding: share of padding among the others.
        sized: whether tokens stand for several ones already.
        seed: of the numbers in them.
        rows: only these samples of the batch.
    """

    length: int = 13
    prefix: int = 1
    padding: float = 0.0
    sized: bool = False
    seed: int = 0
    batch: int = 3
    dtype: torch.dtype = torch.float32
    rows: list[int] | None = None

    def values(self, seed: int | None = None) -> dict[str, dict[str, Tensor]]:
        """Features and signals by stream, from another seed if one is given."""
        generator = torch.Generator().manual_seed(self.seed if seed is None else seed)
        return {"text": self._part(TEXT, generator), "image": self._part(self.length, generator)}

    def _part(self, length: int, generator: torch.Generator) -> dict[str, Tensor]:
        x, keys = torch.randn(2, self.batch, length, WIDTH, generator=generator)
        attention = torch.randn(2, self.batch, length, generator=generator).softmax(dim=-1)
        norms = torch.linalg.vector_norm(keys, dim=-1)
        parts = {"x": x, "keys": keys, "value_norms": norms, "text_attention": attention[1]}
        parts |= {"class_attention": attention[0], "readout_attention": attention[0]}
        parts |= {"received_attention": attention[1].flip(-1), "paid_attention": attention[0].flip(-1)}
        parts |= {"received_logits": keys[..., 0], "paid_logits": keys[..., 1] / 2}
        parts |= {"text_cosine": keys[..., :1].tanh()}
        parts |= {"next_readout_attention": attention[0].flip(-1)}
        parts |= {"rotated_keys": keys.flip(-1), "normed_states": x.flip(-1)}
        parts |= self._prompt(length, generator)
        return {
            name: self._few(value.to(self.dtype) if value.is_floating_point() else value)
            for name, value in parts.items()
        }

    def _prompt(self, length: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Signals of a language model's layers: an image that entered with all these tokens, and the text behind it."""
        embeddings = torch.randn(self.batch, length, WIDTH, generator=generator)
        text = torch.randn(3, self.batch, TEXT, WIDTH, generator=generator)
        rows = torch.rand(self.batch, length, TEXT, HEADS, generator=generator) / length
        columns = torch.arange(length + TEXT).expand(self.batch, -1)
        real = torch.arange(TEXT) < torch.randint(1, TEXT + 1, (self.batch, 1), generator=generator)
        found = {"image_embeddings": embeddings, "text_rows": rows * real[:, None, :, None]}
        found |= {"columns": columns[:, :length], "text_columns": torch.where(real, columns[:, length:], -1)}
        names = ("text_embeddings", "text_keys", "text_states")
        return found | {name: side * real.unsqueeze(-1) for name, side in zip(names, text, strict=True)}

    def _few(self, value: Tensor) -> Tensor:
        return value if self.rows is None else value[self.rows]

    def real(self) -> dict[str, Tensor | None]:
        """(B, n) False for padding, by stream."""
        if not self.padding:
            return {"text": None, "image": None}
        generator = torch.Generator().manual_seed(self.seed + 1)
        found: dict[str, Tensor | None] = {}
        for name, length, first in (("text", TEXT, 1), ("image", self.length, max(self.prefix, 1))):
            real = torch.rand(self.batch, length, generator=generator) >= self.padding
            real[:, :first] = True
            found[name] = self._few(real)
        return found

    def sizes(self) -> dict[str, Tensor | None]:
        """(B, n) how many tokens each stands for, padding 0, by stream."""
        if not self.sized:
            return {"text": None, "image": None}
        generator = torch.Generator().manual_seed(self.seed + 2)
        found: dict[str, Tensor | None] = {}
        for name, real in self.real().items():
            shape = (self.batch, TEXT if name == "text" else self.length)
            size = self._few(torch.randint(1, 5, shape, generator=generator).float())
            found[name] = size if real is None else size * real
        return found

    def streams(
        self,
        values: dict[str, dict[str, Tensor]],
        needs: frozenset[str],
        *,
        training: bool = False,
        read: Callable[[str], None] = lambda name: None,
    ) -> Streams:
        """The streams; ``read`` hears of every signal that is read."""
        real, sizes, parts = self.real(), self.sizes(), {}
        for name, own in values.items():
            tokens = Tokens(own["x"], sizes[name], real[name], self.prefix if name == "image" else 1)
            sources = {signal: partial(_told, own[signal], signal, read) for signal in own if signal != "x"}
            parts[name] = Stream(tokens, Signals(sources, needs), training, initial=tokens.count)
        losses: dict[str, Tensor] | None = {} if training else None
        layout = Layout.of({name: part.tokens.count for name, part in parts.items()}, {"text": 1, "image": self.prefix})
        whole = partial(_whole, layout, parts, values, needs, read)
        return Streams(parts, "image", whole, layout, layout.lengths, losses, HeadMasks())


def draws(*, padded: bool = True, sized: bool = True) -> strategies.SearchStrategy[Draw]:
    """A hypothesis strategy: streams from one token that is not protected up to two dozen, odd numbers too."""
    return strategies.builds(
        lambda free, prefix, padding, sized, seed: Draw(free + prefix, prefix, padding, sized, seed),
        strategies.integers(1, 24),
        strategies.integers(0, 3),
        strategies.sampled_from([0.0, 0.3, 0.9] if padded else [0.0]),
        strategies.booleans() if sized else strategies.just(False),
        strategies.integers(0, 999),
    )


def _whole(
    layout: Layout,
    parts: dict[str, Stream],
    values: dict[str, dict[str, Tensor]],
    needs: frozenset[str],
    read: Callable[[str], None],
) -> Stream:
    """Text and image as one stream."""
    text, image = parts["text"].tokens, parts["image"].tokens

    def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else torch.cat([one, other], dim=1)

    tokens = Tokens(
        torch.cat([text.x, image.x], dim=1), both(text.size, image.size), both(text.real, image.real), text.prefix
    )
    sources = {
        signal: partial(_told, torch.cat([own[signal] for own in values.values()], dim=1), signal, read)
        for signal in GIVEN
        if signal not in BETWEEN_LAYERS
    }
    kinds = layout.all_kinds(len(tokens.x))
    return Stream(tokens, Signals(sources, needs), parts["image"].training, kinds, initial=tokens.count)


def _given(value: Tensor) -> Tensor:
    return value


def _told(value: Tensor, name: str, read: Callable[[str], None]) -> Tensor:
    read(name)
    return value
