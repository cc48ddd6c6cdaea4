"""Multiply-adds, by torch's own flop counter. Axes: B batch, H heads, M and N tokens, d head width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .._torch import Inputs, call
from ..attachments.handle import Attachment
from ..tasks.data import take

DEFINITION = (
    "Multiply-adds of one forward pass per sample: half of what torch.utils.flop_counter counts (matrix products, "
    "convolutions, attention; the reducer's own included). Not counted is whatever has no formula there: elementwise "
    "work, norms, softmax outside fused attention, sorting, gathering, scattering. Where samples keep different "
    "numbers of tokens it is the mean over samples that are run one by one: what fills up the shorter ones of a batch "
    "is in the times, not in here."
)


def count_macs(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...], *, samples: int = 1) -> int:
    """Multiply-adds of one forward pass per sample: half of what ``torch.utils.flop_counter`` counts.

    Counted: matrix products, convolutions and attention, the reducer's own included. Not counted:
    elementwise work, norms, softmax, sorting, gathering (:func:`uncounted` lists it for a model).

    Args:
        model: any module, attached or not.
        inputs: keyword or positional arguments of the call.
        samples: batch size to divide by.
    """
    counter = _run(model, inputs)
    flops: int = counter.get_total_flops()
    return round(flops / 2 / samples)


def sample_macs(handle: Attachment, inputs: Inputs, samples: int) -> list[int]:
    """Multiply-adds of each of so many samples; one number, of all, where all keep the same number of tokens.

    Where they do not, each runs alone, so that what fills up the shorter ones of a batch is not counted.
    """
    if not keeps_by_sample(handle):
        return [count_macs(handle.model, inputs, samples=samples)]
    return [count_macs(handle.model, take(inputs, samples, [index])) for index in range(samples)]


def keeps_by_sample(handle: Attachment) -> bool:
    """Whether samples may keep different numbers of tokens."""
    return any(one.reducer.ragged for one in handle.stacks.values())


def uncounted_operators(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...]) -> list[str]:
    """Names of the operators that one forward pass runs and :func:`count_macs` does not count.

    Views, and operators that only make or look at tensors without computing, are left out.
    """
    seen = _Seen()
    with seen:
        counter = _run(model, inputs)
    counted = {str(packet) for packet in counter.flop_registry}
    return sorted(name.removeprefix("aten.") for name in seen.names - counted)


def _run(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...]) -> Any:
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that the counter does not know
    try:
        with torch.no_grad(), counter:
            call(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter


def _formulas() -> dict[Any, Any]:
    """Fused attention that some versions of torch's counter leave out: the CPU's, and that of other accelerators."""
    names = (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_attention_math_for_mps",
    )
    return {getattr(torch.ops.aten, name): _attention for name in names if hasattr(torch.ops.aten, name)}


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Flops of attention from the shapes of query (B, H, N, d), key (B, H, M, d) and value (B, H, M, d')."""
    batch, heads, rows, width = query
    columns, value_width = key[2], value[3]
    return int(2 * batch * heads * rows * columns * (width + value_width))


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that compute something."""

    IDLE = frozenset({"aten.detach", "aten.empty", "aten.empty_like", "aten._to_copy", "aten.clone", "aten.lift_fresh"})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        if name.startswith("aten.") and not func.is_view and name not in self.IDLE:
            self.names.add(name)
        return func(*args, **(kwargs or {}))
