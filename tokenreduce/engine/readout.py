"""The last block of a stack for the rows alone that the head reads, and what refuses that.

Axes: B batch, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.block import BlockView
from ..backbones.stack import Stack
from ..core.state import key_bias
from ..errors import TokenReduceError, UnsupportedCallError, UnsupportedModelError
from .attention import attention
from .equivalence import ATTEMPTS, Inputs, alone, generator, probe_inputs
from .stand_ins import random_double

HARMLESS = ("torch.distributed", "torch.nn.utils", "torch.nn.parallel")
"""Where hooks are defined that see to a module's weights, whatever rows it is given."""
OTHERWISE = "call handle.detach() and attach without readout_only=True"


@dataclass(frozen=True)
class Readout:
    """What the last block of a stack computes.

    Args:
        stack: whose block it is.
        rows: how many tokens in front of the sequence.
    """

    stack: Stack
    rows: int

    @property
    def index(self) -> int:
        """Of the block."""
        return len(self.stack.blocks) - 1

    @property
    def said(self) -> str:
        """What a handle says of it."""
        first = "the first token alone" if self.rows == 1 else f"the first {self.rows} tokens alone"
        given = "that one" if self.rows == 1 else "those"
        return (
            f"readout_only: the last block of {self.stack.name!r} computes {first}; what gives its tokens back (a part "
            f"of the model that is called by itself) gives {given}"
        )

    def check(self, output: str) -> None:
        """Look at the model as it is now.

        Args:
            output: of the stack.

        Raises:
            UnsupportedCallError: the head reads something else now, or a hook would see fewer rows.
        """
        if output != "reduced" or self.stack.head_rows != self.rows:
            raise UnsupportedCallError(
                f"what the head reads of stack {self.stack.name!r} was changed after attach(..., readout_only=True), "
                f"when it was the first {self.rows} of its tokens; {OTHERWISE}, or attach again"
            )
        block = self.stack.blocks[self.index]
        for module in (*block.modules(), *self.stack.passing):
            if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
                self._check_hooks(module)
            if module._forward_pre_hooks and module is not block:  # the block itself is given all tokens
                self._check_hooks(module)

    def _check_hooks(self, module: nn.Module) -> None:
        groups = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks, module._forward_pre_hooks)
        for hook in (hook for group in groups for hook in group.values()):
            where = str(getattr(hook, "__module__", None))
            if where not in self.stack.ignored_hooks and not where.startswith(HARMLESS):
                raise UnsupportedCallError(
                    f"a {type(module).__name__} in or behind the last block of stack {self.stack.name!r} carries a "
                    f"hook, which would see the first {self.rows} of its tokens alone (readout_only=True); remove the "
                    f"hook, or {OTHERWISE}"
                )

    def check_whole(self, what: str) -> None:
        """Raise UnsupportedCallError: ``what`` asks for all tokens."""
        raise UnsupportedCallError(
            f"{what} asks for every token at the end of stack {self.stack.name!r}, whose last block computes only what "
            f"the head reads (readout_only=True); leave it out, or {OTHERWISE}"
        )


def prove_rows(stack: Stack, index: int, rows: int, attached: bool = False) -> None:
    """Check that the first rows of a block by themselves are those of the whole block.

    Args:
        attached: whether the block's ``forward`` is the engine's own.

    Raises:
        UnsupportedModelError: they are not.
    """
    label = f"{type(stack.blocks[index]).__name__} {index} of stack {stack.name!r}"
    first: Exception | None = None
    for dtype, foreign, tolerance in ATTEMPTS:
        try:
            with alone():
                double = random_double(stack.blocks[index], generator(), dtype, foreign, attached)
                differences = list(_differences(stack, index, rows, double, dtype))
        except TokenReduceError:
            raise
        except Exception as error:  # whatever a library raises for a copy that it cannot run
            first = first or error
            continue
        if all(bool(difference <= tolerance * scale) for difference, scale in differences):
            return
        raise UnsupportedModelError(
            f"the first {rows} tokens of {label}, computed by themselves, are not what the block computes, so a row of "
            "it depends on other rows beyond attention; leave readout_only out"
        )
    raise UnsupportedModelError(
        f"{label} cannot be run on tokens alone ({type(first).__name__}: {first}), so it is not known whether a few of "
        "its rows can be computed by themselves; leave readout_only out"
    ) from first


def _differences(
    stack: Stack, index: int, rows: int, double: nn.Module, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """The largest difference of each probe, and how much the block changes its input."""
    view = stack.view(double)
    for x, real, _, _, positions in probe_inputs(stack, index, view, dtype):
        extra: dict[str, Any] = {} if positions is None else {"positions": positions}
        expected = stack.reference(double, x, real, **extra)[:, :rows]
        got = first_rows(view, (x, real, None, None, positions), rows)
        yield (got - expected).abs().max(), (expected - x[:, :rows]).abs().max()


def first_rows(view: BlockView, given: Inputs, rows: int) -> Tensor:
    """The first rows (B, rows, C) of what a view makes of its tokens, as the engine computes them."""
    x, real, _, _, positions = given
    projected = (view.project(x) if positions is None else view.project_at(x, positions)).front(rows)
    bias = key_bias(projected.query, None, None, real)
    return view.mlp(view.attend(x[:, :rows], attention(view, projected, bias, False), projected))
