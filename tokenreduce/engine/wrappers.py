"""What stands in for a block's and a stack's ``forward`` while a reducer is attached. Axes: B batch, N tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedCallError
from .binding import Binding
from .run import BlockResult, Run


class BlockForward:
    """Stands in for one block's ``forward``. A plain object, so that deepcopy and pickle keep it with its block."""

    def __init__(self, binding: Binding, block: nn.Module, index: int) -> None:
        self.binding, self.block, self.index = binding, block, index

    def __call__(
        self, x: Tensor, memory: Tensor | None = None, *args: Any, run: Run | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(run, Run):
            raise UnsupportedCallError(
                f"block {self.index} of {type(self.binding.stack.module).__name__} was called by itself while a "
                "reducer is attached (by forward_intermediates, an attention mask, or a call of your own); it "
                "expects to be run by the whole stack. Call model(...) without a mask, or handle.detach() first."
            )
        checkpoint = self.binding.stack.checkpointer(self.block)
        if checkpoint is None:
            result = self.compute(x, memory, run)
        else:
            result = BlockResult(*checkpoint(self.compute, x, memory, run))
        run.close(self.index, result)
        return self.binding.stack.pack(result.x)

    def compute(self, x: Tensor, memory: Tensor | None, run: Run) -> BlockResult:
        """What the block gives."""
        return run.step(self.index, x, memory, self.block.training)


class StackForward:
    """Stands in for the stack's ``forward``: every call is a fresh :class:`Run`.

    Attributes:
        owner: the attachment that this is a part of, set by ``attach``.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.owner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.binding.stack.forward(Run(self.binding), *args, **kwargs)
