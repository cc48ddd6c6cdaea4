"""Proof that a view computes what its block computes, before anything is changed.

A copy of the block with random weights (:mod:`tokenreduce.engine.stand_ins`) is run by its own code and through the
view, on a few random tokens. Random weights keep a zero-initialised or tiny part (LayerScale at 1e-5) from hiding a
difference. The proof also tells which modules of a block the view does not call: hooks on them would not act.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import parameter_width
from ..backbones.block import BlockView
from ..backbones.positions import Positions
from ..backbones.stack import Stack
from ..core.state import key_bias
from ..errors import UnsupportedModelError
from .attention import attention
from .stand_ins import has_weights, random_double

ATTEMPTS = (  # dtype, whether layers of other libraries have stand-ins, tolerance
    (
        torch.float64,
        False,
        1e-5,
    ),  # of the largest change that the block makes; parts that compute in float32 stay below
    (torch.float64, True, 1e-5),
    (torch.float32, True, 1e-3),
)

Inputs = tuple[Tensor, "Tensor | None", "Tensor | None", "Tensor | None", "Positions | None"]
"""Tokens, which are real, memory, which of it is real, positions."""


@dataclass(frozen=True)
class Proof:
    """What is known of a proved block.

    Args:
        entered: names of the modules whose parts the view uses without calling the modules themselves.
    """

    entered: tuple[str, ...]


def prove(stack: Stack) -> list[Proof]:
    """Check one block of each structure in the stack; what is known of every block.

    Raises:
        UnsupportedModelError: a view differs from its block, or the block cannot be run on its own.
    """
    seen: dict[Any, Proof] = {}
    proofs = []
    for index, block in enumerate(stack.blocks):
        shape = structure(block)
        if shape not in seen:
            seen[shape] = prove_block(stack, index)
        proofs.append(seen[shape])
    with alone():
        try:
            stack.prove()
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"stack {stack.name!r} could not be run on a small input ({type(error).__name__}: {error}), so what is "
                "replaced there cannot be proved; check that the model itself runs before attaching"
            ) from error
    return proofs


def structure(block: nn.Module) -> tuple[Any, ...]:
    """What tells blocks apart: module types and parameter shapes."""
    kinds = tuple((name, type(module), "forward" in vars(module)) for name, module in block.named_modules())
    return kinds, tuple((name, tuple(p.shape)) for name, p in block.named_parameters())


@contextmanager
def alone() -> Iterator[None]:
    """No gradient, no autocast and no default device, whatever surrounds the caller."""
    with torch.no_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        yield


def prove_block(stack: Stack, index: int, attached: bool = False) -> Proof:
    """Check the view of one block.

    Args:
        attached: whether the block's ``forward`` is the engine's own.

    Raises:
        UnsupportedModelError: it differs from the block, or the block cannot be run on its own.
    """
    block = stack.blocks[index]
    label = f"{type(block).__name__} {index} of stack {stack.name!r}"
    if not has_weights(block):
        raise UnsupportedModelError(f"{label} has no weights in memory; load the model before attaching")
    first: Exception | None = None
    for dtype, foreign, tolerance in ATTEMPTS:
        try:
            with alone():
                double = random_double(block, generator(), dtype, foreign, attached)
                return _compare(stack, index, label, double, dtype, tolerance)
        except UnsupportedModelError:
            raise
        except Exception as error:  # whatever a library raises for a copy that it cannot run
            first = first or error
    raise UnsupportedModelError(
        f"{label} cannot be run on tokens alone ({type(first).__name__}: {first}), so no view of it can be proved; "
        "attach to the plain model before what has changed the block (quantisation, sharding, wrappers), or write an "
        "adapter (tokenreduce.backbones.Adapter)"
    ) from first


def generator() -> torch.Generator:
    """The same random numbers for every proof."""
    return torch.Generator().manual_seed(0)


def _compare(stack: Stack, index: int, label: str, double: nn.Module, dtype: torch.dtype, tolerance: float) -> Proof:
    view = stack.view(double)
    calls = {"block": Counter[str](), "view": Counter[str]()}
    for given in probe_inputs(stack, index, view, dtype):
        x, real, memory, memory_real, positions = given
        with _counting(double, calls["block"]):
            if memory is None:
                extra: dict[str, Any] = {} if positions is None else {"positions": positions}
                expected = stack.reference(double, x, real, **extra)
            else:
                expected = stack.reference(double, x, real, memory, memory_real)
        with _counting(double, calls["view"]):
            got = _run_view(view, *given)
        rows = torch.ones(2, 5, dtype=torch.bool) if real is None else real
        scale = (expected - x)[rows].abs().max()
        difference = (got - expected)[rows].abs().max()
        if not bool(difference <= tolerance * scale):
            raise UnsupportedModelError(
                f"the view of {label} does not compute what the block computes: largest difference "
                f"{float(difference):.3g} where the block changes its input by {float(scale):.3g}. The view leaves out "
                "a part, or the library has changed the block: then please report it with the library's version."
            )
    return Proof(_entered(double, calls["block"], calls["view"]))


def probe_inputs(stack: Stack, index: int, view: BlockView, dtype: torch.dtype) -> Iterator[Inputs]:
    """Random tokens for a block, without and with padding."""
    width, draws = parameter_width(stack.blocks[index]), generator()
    x = torch.randn(2, 5, width, generator=draws, dtype=dtype)
    positions, memory = stack.probe_positions(x), None
    if stack.role(index).memory is not None:
        memory = torch.randn(2, 4, view.memory_width or width, generator=draws, dtype=dtype)
    yield x, None, memory, None, positions
    if stack.padded:
        mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
        yield x, mask, memory, mask[:, :4] if memory is not None and stack.padded_memory else None, positions


@contextmanager
def _counting(block: nn.Module, calls: Counter[str]) -> Iterator[None]:
    """Count the calls of each module inside a block, by its name."""

    def counter(name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            calls[name] += 1

        return count

    handles = [module.register_forward_pre_hook(counter(name)) for name, module in block.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entered(block: nn.Module, by_block: Counter[str], by_view: Counter[str]) -> tuple[str, ...]:
    """The modules that the view does not call as the block does, those inside of one that it does call left out."""
    found: list[str] = []
    called: list[str] = []
    for name, _ in block.named_modules():  # parents first
        if not name or any(name.startswith(f"{other}.") for other in called):
            continue
        if by_view[name] and by_view[name] == by_block[name]:
            called.append(name)
        else:
            found.append(name)
    return tuple(found)


def _run_view(
    view: BlockView,
    x: Tensor,
    real: Tensor | None,
    memory: Tensor | None,
    memory_real: Tensor | None,
    positions: Positions | None,
) -> Tensor:
    """What the view makes of tokens (B, N, C) and a memory (B, M, C'), as the engine would run it."""
    projected = view.project(x) if positions is None else view.project_at(x, positions)
    bias = key_bias(projected.query, None, None, real)
    x = view.attend(x, attention(view, projected, bias, False), projected)
    if memory is not None:
        projected = view.project_memory(x, memory)
        bias = key_bias(projected.query, None, None, memory_real)
        x = view.attend_memory(x, attention(view, projected, bias, False), projected)
    return view.mlp(x)
