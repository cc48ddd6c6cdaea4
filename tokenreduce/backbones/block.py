"""One block in parts. Axes: B batch, N tokens, M memory tokens, C width, H heads, d head width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .positions import Positions


@dataclass(frozen=True)
class Role:
    """Which sequence a block updates, and which other one it attends to, by name (see ``Stack.sequences``)."""

    own: str
    memory: str | None = None


@dataclass
class Projected:
    """Query (B, H, N, d), key and value (B, G, N or M, d) of one attention, and whatever ``attend`` needs again.

    G is H, or a divisor of it where each head of keys and values serves several of queries. ``extra`` may be
    anything; a tensor has a row for each token, (B, N, ...).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    extra: Any = None

    def front(self, rows: int) -> Projected:
        """With the queries of the first ``rows`` tokens alone."""
        extra = self.extra[:, :rows] if isinstance(self.extra, Tensor) else self.extra
        return Projected(self.query[:, :, :rows], self.key, self.value, extra)


class _Current:
    """Reads an attribute anew whenever it is asked for; an object may still set one of its own."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def __get__(self, holder: Any, owner: type | None = None) -> Any:
        return self if holder is None else self._read(holder)


def current(read: Callable[[Any], Any]) -> Any:
    """An attribute of a view or a stack that is read from the model each time, so that later changes of it act.

    ``dropout = current(lambda view: view.block.attn.attn_drop.p)`` in the class body. Parts of a block belong there, or
    in the methods that use them: what a view keeps from its ``__init__`` would be used even after somebody (an adapter
    library, a quantiser) has exchanged it.

    Args:
        read: the value, out of the view or stack.
    """
    return _Current(read)


class BlockView:
    """One block in parts; the engine runs attention between :meth:`project` and :meth:`attend`.

    A view keeps the block and looks its parts up when they run (:func:`current` for attributes).

    Attributes:
        scale: factor on query-key products, None for 1/sqrt(d).
        dropout: attention dropout in training.
        causal: whether a token sees only itself and those before it.
        fused: whether torch's fused attention is wanted; without it derivatives of any order can be taken.
        direct: whether the block's own forward runs attention as the engine does, so that it is called whole, on tokens
            alone, where nothing happens to them.
        attention_parts, cross_parts, memory_parts, mlp_parts: modules, for counting multiply-adds: of the
            self-attention, of the cross-attention on the own tokens and on the memory's, of the MLP half.
        memory_width: width of the memory's tokens, None for that of the block's own.
    """

    scale: float | None = None
    dropout: float = 0.0
    causal: bool = False
    fused: bool = True
    direct: bool = False
    attention_parts: Sequence[nn.Module] = ()
    cross_parts: Sequence[nn.Module] = ()
    memory_parts: Sequence[nn.Module] = ()
    mlp_parts: Sequence[nn.Module] = ()
    memory_width: int | None = None

    def project(self, x: Tensor) -> Projected:
        """Tokens (B, N, C) to query, key and value, norm included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define project(x)")

    def project_at(self, x: Tensor, positions: Positions) -> Projected:
        """As :meth:`project`, where the stack gave ``run.start`` positions: those of the tokens that are left."""
        return self.project(x)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        """Block input (B, N, C) and attention output (B, N, H * d) to the tokens after attention, residual included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define attend(x, context, projected)")

    def project_memory(self, x: Tensor, memory: Tensor) -> Projected:
        """Tokens after self-attention (B, N, C) to query, memory (B, M, C') to key and value, norm included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define project_memory(x, memory)")

    def attend_memory(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        """As :meth:`attend`, for the cross-attention."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define attend_memory(x, context, projected)")

    def mlp(self, x: Tensor) -> Tensor:
        """The last part of the block, residual included."""
        raise UnsupportedModelError(f"{type(self).__name__} does not define mlp(x)")
