"""The tokens of each modality at a site, with their signals. Axes: B batch, n tokens of the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ..errors import UnsupportedCallError
from .reduction import Reduction, join
from .signals import Signals
from .tokens import Tokens


@dataclass(frozen=True)
class Stream:
    """One modality at a site: its tokens, its signals, and whether the model is training.

    ``is_image`` (B, n) is only there for the joint stream, whose tokens are of both modalities. ``gate`` (B, n) says
    how much each token counts so far (see :class:`tokenreduce.methods.Gate`), None while all count in full. ``initial``
    is the number of tokens that the stream had at the start of the pass, where it is known.
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
