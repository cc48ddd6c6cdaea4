"""The tokens of each modality at a site, with their signals. Axes: B batch, n tokens of the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ..backbones.layout import Layout
from ..errors import UnsupportedCallError
from .composition import combine
from .heads import HeadMasks
from .reduction import Reduction
from .signals import Signals
from .tokens import Tokens


@dataclass(frozen=True)
class Stream:
    """One modality at a site: its tokens, its signals, and whether the model is training.

    Args:
        tokens: what can be reduced.
        signals: what the reducer asked for.
        training: whether the block is in training mode.
        kinds: (B, n) number of the stream of each token, only for a whole sequence of several streams.
        gate: (B, n) how much each token counts so far (see :class:`tokenreduce.methods.Gate`), None while all count
            in full.
        initial: number of tokens at the start of the pass, where it is known.
        places: (B,) number that a repeatable draw goes by, where that is not the sample's place in the batch.
        needed: (B,) how many tokens each sample needs, where a reducer around this one has found that out; it stands
            for what the rule of a budget asks for.
        grids: rows and columns that the tokens of each sample form in raster order, None for a sample whose tokens form
            none; None where it is not known.
        past_gates: the gates that the stream has had at sites before this one, (B, n) each, the last is ``gate``.
    """

    tokens: Tokens
    signals: Signals
    training: bool
    kinds: Tensor | None = None
    gate: Tensor | None = None
    initial: int | None = None
    places: Tensor | None = None
    needed: Tensor | None = None
    grids: Sequence[tuple[int, int] | None] | None = None
    past_gates: tuple[Tensor, ...] = ()

    def after(self, reduction: Reduction) -> Stream:
        """The stream that a reduction leaves."""
        return replace(
            self,
            tokens=self.tokens.after(reduction),
            signals=self.signals.after(reduction),
            kinds=None if self.kinds is None else reduction.take(self.kinds),
            gate=None if self.gate is None else reduction.side(self.gate, 1.0),
            past_gates=tuple(reduction.side(gate, 1.0) for gate in self.past_gates),
            needed=None,
            grids=None,
        )


class Streams(Mapping[str, Stream]):
    """The streams at a site by name, and where several form one sequence, that sequence as a whole.

    Args:
        parts: by name, each a stream or a function that makes it when somebody asks.
        main: the stream that a method of one stream reduces; the first one if left out.
        whole: makes the sequence of several streams as one stream.
        layout: of that sequence.
        initial: tokens of each stream at the start of the pass.
        losses: collects what :meth:`add_loss` is given; None, as in evaluation, to let it go.
        heads: collects what :meth:`mask_heads` is given; None where heads cannot be masked.
    """

    def __init__(
        self,
        parts: Mapping[str, Stream | Callable[[], Stream]],
        main: str | None = None,
        whole: Callable[[], Stream] | None = None,
        layout: Layout | None = None,
        initial: Mapping[str, int] | None = None,
        losses: dict[str, Tensor] | None = None,
        heads: HeadMasks | None = None,
    ) -> None:
        self._parts, self._heads = dict(parts), heads
        self._main, self._whole, self._layout, self._losses = main, whole, layout, losses
        self.initial: Mapping[str, int] = initial or {}

    def __getitem__(self, name: str) -> Stream:
        if name not in self._parts and self._layout is not None and name in self._layout.streams:
            raise UnsupportedCallError(
                f"the tokens of {' and '.join(self._layout.streams)} were merged together, so {name!r} is not there by "
                "itself; reduce the sequence as a whole (streams.whole()), or let merging across streams come last"
            )
        part = self._parts[name]
        if not isinstance(part, Stream):
            self._parts[name] = part = part()
        return part

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def main(self) -> str:
        """The stream that a method of one stream reduces, such as ``"image"``."""
        return self._main or next(iter(self._parts))

    @property
    def sequence(self) -> str | None:
        """Name of the sequence of several streams, under which a reduction of the whole is returned; None without."""
        return self._layout.name if self._whole is not None and self._layout is not None else None

    @property
    def length(self) -> int:
        """Tokens of that sequence."""
        return 0 if self._layout is None else self._layout.length

    @property
    def numbers(self) -> tuple[str, ...]:
        """The streams of that sequence in the order in which ``kinds`` counts them."""
        return () if self._layout is None else self._layout.streams

    def whole(self) -> Stream:
        """Several streams as one, where they form one sequence."""
        if self._whole is None:
            raise UnsupportedCallError("there are no several streams in one sequence here; use the streams by name")
        return self._whole()

    def after(self, chosen: Mapping[str, Reduction]) -> Streams:
        """The streams that reductions leave, by name: for another reducer at the same site."""
        parts: Mapping[str, Stream | Callable[[], Stream]] = {
            name: stream.after(chosen[name]) if name in chosen else stream for name, stream in self.items()
        }
        if self._whole is None or self._layout is None:
            return Streams(parts, self._main, None, self._layout, self.initial, self._losses, self._heads)
        own = {name: value for name, value in chosen.items() if name in (*self._layout.streams, self._layout.name)}
        tokens = next(iter(own.values())).keep if own else None
        if tokens is None:
            return Streams(parts, self._main, self._whole, self._layout, self.initial, self._losses, self._heads)
        dtype = next(iter(self.values())).tokens.x.dtype
        reduction, layout = combine(self._layout, own, tokens.shape[0], tokens.device, dtype)
        whole = partial(self._whole_after, reduction)
        return Streams(
            {} if layout.mixed else parts, self._main, whole, layout, self.initial, self._losses, self._heads
        )

    def with_stream(self, name: str, stream: Stream) -> Streams:
        """The same with another stream in the place of one: what a reducer around others tells them of it."""
        parts = {**self._parts, name: stream}
        return Streams(parts, self._main, self._whole, self._layout, self.initial, self._losses, self._heads)

    @property
    def past_heads(self) -> tuple[Tensor, ...]:
        """(B, H) of each attention whose heads were masked at sites before this one, in the order of the blocks."""
        return () if self._heads is None else self._heads.past

    def mask_heads(self, sequence: str, values: Tensor, *, cross: bool = False) -> None:
        """Let the heads of an attention of this layer count for less, or not at all.

        What a head gives is multiplied by its value before the output projection. In evaluation a head that is 0 in
        every sample of the batch is not computed, except where the pass is compiled: shapes are static then.

        Args:
            sequence: whose tokens attend: ``"image"``, or ``"text+image"`` where both form one sequence.
            values: (B, H) from 0 to 1 for each of the heads (:attr:`Backbone.heads`); in training with a gradient.
            cross: of its cross-attention, not of its self-attention.

        Raises:
            UnsupportedCallError: the reducer does not act before the block, or does not say ``masks_heads``; or values
                of another shape.
        """
        if self._heads is None:
            raise UnsupportedCallError(
                "heads can be masked by a reducer that acts before the block (position = 'before_block') and says so "
                "(masks_heads = True), so that attach can check the blocks"
            )
        batch = (next(iter(self.values())) if self._parts else self.whole()).tokens.x.shape[0]
        if not isinstance(values, Tensor) or values.ndim != 2 or values.shape[0] != batch:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UnsupportedCallError(f"the mask of the heads of {sequence!r} must be (B, H), B = {batch}, got {got}")
        self._heads.given[sequence, cross] = values

    def _whole_after(self, reduction: Reduction) -> Stream:
        return self.whole().after(reduction)

    def add_loss(self, name: str, value: Tensor) -> None:
        """Hand a term of the training loss to the user: ``handle.last.losses[name]`` is the sum over all sites.

        In evaluation it is let go.

        Args:
            name: what the term is called.
            value: a number with a gradient, weight included.

        Raises:
            UnsupportedCallError: not a tensor of one number.
        """
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UnsupportedCallError(f"the loss {name!r} must be one number as a tensor, got {got}; take its mean")
        if self._losses is not None:
            value = value.reshape(())
            self._losses[name] = self._losses[name] + value if name in self._losses else value
