"""What a stack may ask of the forward pass that it is run by. Axes: B batch, N tokens, M memory tokens, C width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from .layout import Layout
from .positions import Positions


class Pass(Protocol):
    """One forward pass through one stack, as :meth:`Stack.forward` is given it."""

    def start(
        self,
        x: Tensor,
        lengths: Mapping[str, int] | Layout,
        real: Tensor | None = None,
        positions: Positions | None = None,
    ) -> None:
        """Begin a sequence; once for each sequence of the stack.

        Args:
            x: tokens (B, N, C).
            lengths: tokens of each stream in sequence order, or a layout where a stream occurs several times.
            real: (B, N) False for padding.
            positions: what :meth:`BlockView.project_at` is given, reduced with the tokens.
        """

    def __call__(self, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Run every block of a stack with one sequence.

        ``seen`` collects the tokens before the first block and after each.
        """
        ...

    def block(self, index: int, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run block ``index`` on its own tokens (B, N, C) and its memory (B, M, C'); both as they are afterwards."""
        ...

    def follow(self, sequence: str, x: Tensor, since: int = 0) -> Tensor:
        """Reduce further tokens (B, N, C) of a sequence as it was reduced in block ``since`` and later ones."""
        ...

    def places(self, sequence: str = "image") -> Tensor | None:
        """(B, N0) of each input token of a sequence the one at whose place it is at the end, -1 where it was dropped.

        None where nothing was reduced, or the stack does not need every token at its place at the end.
        """
        ...

    def check_whole(self, what: str) -> None:
        """Raise UnsupportedCallError where the last block computes only what the head reads.

        For stacks that are asked for more of the tokens at their end; ``what`` says by what.
        """

    def finish(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Record the pass and return what the rest of the model expects: the tokens of each sequence started."""
        ...
