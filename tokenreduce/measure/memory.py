"""Peak activation memory of a forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._torch import call
from ..backbones.dispatch import devices_of

DEFINITION = (
    "Largest sum of the tensors alive at once in one forward pass of a batch, weights and inputs not counted; for "
    "training, with everything kept that a backward pass needs. On the CPU every storage that an operator returns "
    "counts from its making until nothing holds it (scratch space inside a kernel is not seen); on an accelerator it "
    "is the allocator's own peak above what was allocated before."
)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make, for as long as anything holds them."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known, self.now, self.peak = known, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or not size:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_activation_bytes(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...], *, graph: bool = False) -> int:
    """Largest sum of the tensors alive at once during one forward pass, in bytes.

    Without ``graph`` that is inference: mostly the widest moment of one block. With ``graph`` autograd keeps
    what a backward pass needs, as in training (and in PuMer's published memory figures).

    Weights and inputs are not counted. On an accelerator it is the allocator's own peak above what was
    allocated before; on the CPU every storage that an operator returns counts from its making until
    nothing holds it (scratch space inside a kernel is not seen). Of a model on several accelerators it is the sum of
    their peaks. Weights that are offloaded, and brought for the pass, count while they are there.
    """
    cards = [device for device in devices_of(model) if device.type == "cuda"]
    if cards:
        before = []
        for card in cards:
            torch.cuda.synchronize(card)
            torch.cuda.reset_peak_memory_stats(card)
            before.append(torch.cuda.memory_allocated(card))
        with torch.set_grad_enabled(graph):
            output = call(model, inputs)
        for card in cards:
            torch.cuda.synchronize(card)
        del output
        return sum(torch.cuda.max_memory_allocated(card) - was for card, was in zip(cards, before, strict=True))
    tensors = [*model.parameters(), *model.buffers(), *(t for t in tree_leaves(inputs) if isinstance(t, Tensor))]
    mode = _Live({tensor.untyped_storage()._cdata for tensor in tensors})
    with torch.set_grad_enabled(graph), mode:
        output = call(model, inputs)
        del output
    return mode.peak
