"""Proof that masking a head of a view is masking it in the block.

The columns of a head in the output projection of a copy of the block are set to zero; the block's own code must then
give what the view gives with that head masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.block import BlockView, Projected
from ..backbones.stack import Stack
from ..core.heads import weigh_heads
from ..errors import TokenReduceError, UnfitReducerError
from .attention import attention
from .equivalence import ATTEMPTS, alone, generator, probe_inputs, structure
from .stand_ins import random_double


def heads_of(stack: Stack, levels: Sequence[Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Heads of the attentions in the blocks of these layers, by the sequence that a block updates.

    Raises:
        UnfitReducerError: heads of a block cannot be masked, or the layers have different numbers of them.
    """
    seen: dict[Any, tuple[int, ...]] = {}
    found: dict[str, tuple[int, ...]] = {}
    for index in (index for level in levels for index in level):
        kind = structure(stack.blocks[index])
        if kind not in seen:
            seen[kind] = check_heads(stack, index)
        own = stack.role(index).own
        if found.setdefault(own, seen[kind]) != seen[kind]:
            raise UnfitReducerError(
                f"the blocks of stack {stack.name!r} have different numbers of heads ({found[own]} and {seen[kind]}); "
                "name layers that are alike, or leave their heads whole"
            )
    return found


def check_heads(stack: Stack, index: int) -> tuple[int, ...]:
    """The number of heads of self-attention, and of cross-attention where there is one, in a block.

    Raises:
        UnfitReducerError: masking one in the view is not masking it in the block.
    """
    block, first = stack.blocks[index], None
    label = f"{type(block).__name__} {index} of stack {stack.name!r}"
    for dtype, foreign, tolerance in ATTEMPTS:
        try:
            with alone():
                return _compare(
                    stack, index, random_double(block, generator(), dtype, foreign), dtype, tolerance, label
                )
        except TokenReduceError:
            raise
        except Exception as error:  # whatever a library raises for a copy that it cannot run
            first = first or error
    raise UnfitReducerError(
        f"{label} cannot be run on tokens alone ({type(first).__name__}: {first}), so it is not known what masking its "
        "heads does; leave its heads whole"
    ) from first


def _compare(
    stack: Stack, index: int, double: nn.Module, dtype: torch.dtype, tolerance: float, label: str
) -> tuple[int, ...]:
    view = stack.view(double)
    x, real, memory, memory_real, positions = next(iter(probe_inputs(stack, index, view, dtype)))
    attentions: Mapping[str, Any] = {
        "self": view.attention_parts,
        **({} if memory is None else {"cross": view.cross_parts}),
    }
    counts = []
    for name, parts in attentions.items():
        projected = view.project(x) if positions is None else view.project_at(x, positions)
        if name == "cross" and memory is not None:
            projected = view.project_memory(x, memory)
        heads, width = projected.query.shape[1], projected.value.shape[-1]
        projection = output_projection(parts, heads * width)
        if projection is None:
            raise UnfitReducerError(
                f"the heads of {label} cannot be masked: nothing in its {name}-attention is known as the projection of "
                f"{heads} heads of {width}; leave its heads whole"
            )
        counts.append(int(heads))
        values = torch.ones(len(x), heads, dtype=dtype)
        values[:, 0] = 0
        masks: dict[str, Tensor] = {name: values}
        got = _run_view(view, x, memory, positions, masks)
        kept = projection.weight.data.clone()
        projection.weight.data[:, :width] = 0
        extra: dict[str, Any] = {} if positions is None else {"positions": positions}
        given = (x, real) if memory is None else (x, real, memory, memory_real)
        expected = stack.reference(double, *given, **extra)
        projection.weight.data.copy_(kept)
        scale, difference = (expected - x).abs().max(), (got - expected).abs().max()
        if not bool(difference <= tolerance * scale):
            raise UnfitReducerError(
                f"the heads of {label} cannot be masked: what its {name}-attention gives is not the sum of what each "
                "head gives (a norm over all heads in front of the output projection?); leave its heads whole"
            )
    return tuple(counts)


def output_projection(parts: Sequence[nn.Module], width: int) -> nn.Linear | None:
    """The last linear layer of an attention's parts, None where it does not take heads side by side."""
    linear = [module for part in parts for module in part.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear and linear[-1].in_features == width else None


def _run_view(view: BlockView, x: Tensor, memory: Tensor | None, positions: Any, masks: Mapping[str, Tensor]) -> Tensor:
    """What the view makes of tokens (B, N, C) and a memory (B, M, C') with heads masked, as the engine would run it."""

    def context(projected: Projected, name: str) -> Tensor:
        whole = attention(view, projected, None, False)
        return weigh_heads(whole, masks[name]) if name in masks else whole

    projected = view.project(x) if positions is None else view.project_at(x, positions)
    x = view.attend(x, context(projected, "self"), projected)
    if memory is not None:
        projected = view.project_memory(x, memory)
        x = view.attend_memory(x, context(projected, "cross"), projected)
    return view.mlp(x)
