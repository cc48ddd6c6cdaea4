"""What a reducer is given at a site: the streams, their tokens, and the signals it declared.

Axes: B batch, H heads, N tokens of the sequence, n tokens of the stream, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from .errors import UnsupportedCallError
from .ops.rows import attention_rows
from .reduction import Reduction, join
from .tokens import Tokens

SIGNALS = ("keys", "class_attention", "text_attention")


@dataclass(frozen=True)
class Site:
    """A place where reduction may happen: between the attention and the MLP of one block, or before the block.

    Args:
        stack: the tower's name.
        layer: zero-based layer (a block, or a level of several blocks).
        index: this is the index-th acting site of the stack.
        total: number of acting sites.
        depth: number of layers in the stack.
    """

    stack: str
    layer: int
    index: int
    total: int
    depth: int


class Signals:
    """Signals of one stream, each computed when first read, and only if the reducer declared it.

    Attributes:
        keys: (B, n, d), their keys in this block averaged over heads (in its cross-attention for a memory).
        class_attention: (B, n), attention from the token that the head reads, averaged over heads.
        text_attention: (B, n), attention from the text's tokens, averaged over heads and real text tokens; or
            likeness to the text features given to ``handle.guide``.
    """

    def __init__(self, sources: Mapping[str, Callable[[], Tensor]], needs: frozenset[str]) -> None:
        self._sources, self._needs = sources, needs
        self._cache: dict[str, Tensor] = {}

    def _read(self, name: str) -> Tensor:
        if name not in self._cache:
            if name not in self._needs:
                raise UnsupportedCallError(f"the reducer read signals.{name} but its 'needs' has {set(self._needs)}")
            if name not in self._sources:
                raise UnsupportedCallError(f"this stream has no {name}; it has {', '.join(self._sources)}")
            self._cache[name] = self._sources[name]()
        return self._cache[name]

    def after(self, reduction: Reduction) -> Signals:
        """Signals of the tokens that a reduction leaves: a kept token has its own, a merged one its members' mean."""
        left = {name: partial(self._left, name, reduction) for name in self._sources}
        return Signals(left, self._needs)

    def _left(self, name: str, reduction: Reduction) -> Tensor:
        return reduction.average(self._read(name))

    @property
    def keys(self) -> Tensor:
        return self._read("keys")

    @property
    def class_attention(self) -> Tensor:
        return self._read("class_attention")

    @property
    def text_attention(self) -> Tensor:
        return self._read("text_attention")


@dataclass(frozen=True)
class Stream:
    """One modality at a site: its tokens, its signals, and whether the model is training.

    ``is_image`` (B, n) is only there for the joint stream, whose tokens are of both modalities. ``gate`` (B, n) says
    how much each token counts so far (see :class:`tokenreduce.Gate`), None while all count in full. ``initial`` is
    the number of tokens that the stream had at the start of the pass, where it is known.
    """

    tokens: Tokens
    signals: Signals
    training: bool
    is_image: Tensor | None = None
    gate: Tensor | None = None
    initial: int | None = None

    def after(self, reduction: Reduction) -> Stream:
        """The stream that a reduction leaves."""
        return replace(
            self,
            tokens=self.tokens.after(reduction),
            signals=self.signals.after(reduction),
            is_image=None if self.is_image is None else reduction.take(self.is_image),
            gate=None if self.gate is None else reduction.side(self.gate, 1.0),
        )


class Streams(Mapping[str, Stream]):
    """The streams at a site by name, ``"image"`` and perhaps ``"text"``; ``joint`` is both as one sequence.

    ``losses`` collects what :meth:`add_loss` is given; None, as in evaluation, to let it go.
    """

    def __init__(
        self,
        parts: Mapping[str, Stream],
        joint: Callable[[], Stream] | None = None,
        losses: dict[str, Tensor] | None = None,
    ) -> None:
        self._parts, self._joint, self._losses = parts, joint, losses

    def __getitem__(self, name: str) -> Stream:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def main(self) -> str:
        """The stream that a method of one stream reduces: ``"image"``, or the only one."""
        return "image" if "image" in self._parts else next(iter(self._parts))

    @property
    def has_joint(self) -> bool:
        """Whether text and image stand in one sequence."""
        return self._joint is not None

    def joint(self) -> Stream:
        """Text and image as one stream, where they stand in one sequence."""
        if self._joint is None:
            raise UnsupportedCallError("text and image do not stand in one sequence here; use the streams by name")
        return self._joint()

    def after(self, chosen: Mapping[str, Reduction]) -> Streams:
        """The streams that reductions of some of them, by name, leave: for another reducer at the same site."""
        parts = {name: stream.after(chosen[name]) if name in chosen else stream for name, stream in self.items()}
        joint = None if self._joint is None else partial(self._joint_after, chosen)
        return Streams(parts, joint, self._losses)

    def _joint_after(self, chosen: Mapping[str, Reduction]) -> Stream:
        parts = [chosen.get(name) or stream.tokens.identity() for name, stream in self.items()]
        return self.joint().after(join(parts))

    def add_loss(self, name: str, value: Tensor) -> None:
        """Hand a term of the training loss to the user: ``handle.losses()[name]`` is the sum over all sites.

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


def signal_sources(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    scale: float | None,
    columns: slice,
    reader: int | None,
    text_rows: int,
    text_weight: Tensor | None,
) -> dict[str, Callable[[], Tensor]]:
    """The signals that one attention can give for the tokens whose keys are at ``columns``.

    Args:
        query, key: (B, H, rows, d) and (B, H, N, d); self-attention, or cross-attention to these tokens.
        reader: row of the token that the head reads, or None.
        text_rows: the text's tokens are among the first so many rows; 0 for no text.
        text_weight: (B, text_rows), 1 for rows that count (real text tokens), None for all.
    """
    sources: dict[str, Callable[[], Tensor]] = {"keys": partial(_keys, key, columns)}
    if reader is not None:
        sources["class_attention"] = partial(_class_row, query, key, bias, scale, columns, reader)
    if text_rows:
        sources["text_attention"] = partial(_text_rows, query, key, bias, scale, columns, text_rows, text_weight)
    return sources


def _keys(key: Tensor, columns: slice) -> Tensor:
    return key[:, :, columns].mean(dim=1)


def _class_row(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None, columns: slice, reader: int
) -> Tensor:
    return attention_rows(query[:, :, reader : reader + 1], key, bias, scale)[:, 0, columns]


def _text_rows(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    scale: float | None,
    columns: slice,
    rows: int,
    weight: Tensor | None,
) -> Tensor:
    attention = attention_rows(query[:, :, :rows], key, bias, scale)[:, :, columns]
    if weight is None:
        return attention.mean(dim=1)
    weight = weight.to(attention.dtype)
    total = weight.sum(dim=1, keepdim=True).clamp(min=1)
    return (attention * weight.unsqueeze(-1)).sum(dim=1) / total
