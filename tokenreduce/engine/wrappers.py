"""What stands in for a block's and a stack's ``forward`` while a reducer is attached. Axes: B batch, N tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedCallError
from .binding import Binding
from .run import Run


class BlockForward:
    """Stands in for one block's ``forward``. A plain object, so that deepcopy and pickle keep it with its block."""

    def __init__(self, bound: Binding, block: nn.Module, index: int) -> None:
        self.bound, self.block, self.index = bound, block, index

    def __call__(
        self, x: Tensor, memory: Tensor | None = None, *args: Any, run: Run | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(run, Run):
            raise UnsupportedCallError(
                f"block {self.index} of {type(self.bound.stack.module).__name__} was called by itself while a reducer "
                "is attached (by forward_intermediates, an attention mask, or a call of your own); it expects to be "
                "run by the whole stack. Call model(...) without a mask, or handle.detach() first."
            )
        stack = self.bound.stack
        checkpoint = stack.checkpointer(self.block)
        if checkpoint is None:
            y, memory, *_ = self.compute(x, memory, run)
        else:
            y, memory, *before = checkpoint(self.compute, x, memory, run)
            for key, tokens in zip(self._sequences(), before, strict=True):
                if tokens is not None:  # handed through the checkpoint, so that gradients reach dropped tokens
                    run.undo[key] = (tokens, run.undo[key][1])
        if memory is not None:
            run.memory[self.index] = memory
        return stack.pack(y)

    def compute(self, x: Tensor, memory: Tensor | None, run: Run) -> tuple[Any, ...]:
        """The block's tokens and its memory, and the tokens before its site where they are needed again."""
        y, memory = run.step(self.index, x, memory, self.block.training)
        return y, memory, *(run.undo.get(key, (None, None))[0] for key in self._sequences())

    def _sequences(self) -> list[tuple[int, str]]:
        role = self.bound.roles[self.index]
        return [(self.index, name) for name in (role.own, role.memory) if name is not None]


class StackForward:
    """Stands in for the stack's ``forward``: every call is a fresh :class:`Run`.

    Attributes:
        owner: the attachment that this is a part of, set by ``attach``.
    """

    def __init__(self, bound: Binding) -> None:
        self.bound = bound
        self.owner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.bound.stack.forward(Run(self.bound), *args, **kwargs)
