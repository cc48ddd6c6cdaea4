"""Tiny models with random weights of every family whose library is installed: the adapters' own examples."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .._torch import call
from ..attachments.handle import Attachment
from ..attachments.reduced_stack import ReducedStack
from ..backbones.adapter import Adapter, Example
from ..backbones.causal import CausalStack
from ..backbones.stack import Stack
from ..engine.record import Record
from ..registry.registry import Registry, default_registry
from .comparison import tensors

KINDS: dict[str, tuple[str, bool, str]] = {
    "image, a class token is read": ("image", True, "reduced"),
    "image, tokens are pooled beside a class token": ("image", True, "repeated"),
    "image, tokens are pooled": ("image", False, "repeated"),
    "image, every token is given back, with a class token": ("image", True, "full"),
    "image, every token is given back": ("image", False, "full"),
    "text and image in one sequence": ("text+image", True, "reduced"),
    "text and image in one sequence, text is given back": ("text+image", True, "text"),
    "text and image in two sequences": ("text, image", True, "reduced"),
    "text and image in two sequences, text is given back": ("text, image", True, "text"),
}
"""What a reducer can tell apart in a backbone: sequences, whether a token is read by the head, what comes back."""


def models(registry: Registry | None = None) -> dict[str, Callable[[], Example]]:
    """Makers of tiny models, by ``"adapter: example"``.

    Args:
        registry: the one in force if None.
    """
    registry = default_registry() if registry is None else registry
    found = {}
    for name, entry in registry.adapters.items():
        if entry.usable:
            made: Adapter = registry.load("adapter", name)()
            found.update({f"{name}: {label}": maker for label, maker in made.examples().items()})
    return found


def kind_of(stack: Stack) -> tuple[str, bool, str]:
    """What a reducer can tell of a stack, as in :data:`KINDS`."""
    sequences = stack.sequences or [tuple(stack.prefix)]
    return ", ".join("+".join(streams) for streams in sequences), stack.readout is not None, stack.output


@functools.cache
def names_of_kinds() -> dict[tuple[str, bool, str], str]:
    """The first installed example of each kind, by its name in :func:`models`."""
    registry, found = default_registry(), dict[tuple[str, bool, str], str]()
    for name, maker in models(registry).items():
        adapter: Adapter = registry.load("adapter", name.partition(": ")[0])()
        stack = next(iter(adapter.stacks(quietly(maker).model).values()))
        found.setdefault(kind_of(stack), name)
    return found


@functools.cache
def language_models() -> tuple[str, ...]:
    """The installed examples of language models with images, by their names in :func:`models`."""
    registry, found = default_registry(), list[str]()
    for name, entry in registry.adapters.items():
        if entry.usable:
            adapter: Adapter = registry.load("adapter", name)()
            examples = adapter.examples()
            stacks = adapter.stacks(quietly(next(iter(examples.values()))).model).values() if examples else ()
            if any(isinstance(stack, CausalStack) for stack in stacks):
                found += [f"{name}: {label}" for label in examples]
    return tuple(found)


def backbone(name: str) -> tuple[str, Example]:
    """An example and the name of its adapter, by the name of a kind or of a model; the test is skipped where there is
    none."""
    if name in KINDS:
        found = names_of_kinds().get(KINDS[name])
        if found is None:
            pytest.skip(f"no installed family has a model of the kind {name!r}; see 'tokenreduce list'")
        name = found
    every = models()
    if name not in every:
        raise ValueError(f"no backbone is called {name!r}; kinds: {', '.join(KINDS)}; models: {', '.join(every)}")
    return name.partition(": ")[0], quietly(every[name])


def quietly(maker: Callable[[], Example]) -> Example:
    """An example; what its library says about itself while it is made is no affair of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return maker()


def run(model: nn.Module, inputs: Mapping[str, Any], seed: int = 0) -> list[Tensor]:
    """The tensors that a model gives, drawing from torch's generator at ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tensors(call(model, inputs))


def reduced_stack(handle: Attachment) -> ReducedStack:
    """The first reduced stack."""
    return next(iter(handle.stacks.values()))


def last(handle: Attachment) -> Record:
    """What the last pass through the first reduced stack did."""
    record = reduced_stack(handle).last
    assert record is not None, "no forward pass yet"
    return record


def backward(loss: Tensor) -> None:
    """Gradients of a loss."""
    loss.backward()  # type: ignore[no-untyped-call]


def cast(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Inputs with their floating-point tensors in another type."""
    return {key: value.to(dtype) if _floats(value) else value for key, value in inputs.items()}


def batch_of_three(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a batch of two with a third sample: the first one mirrored."""
    grown = {}
    for key, value in inputs.items():
        grown[key] = torch.cat([value, value[:1].flip(-1)]) if isinstance(value, Tensor) else value
    return grown


def pick_samples(inputs: Mapping[str, Any], order: list[int]) -> dict[str, Any]:
    """Inputs of some samples of the batch."""
    return {key: value[order] if isinstance(value, Tensor) else value for key, value in inputs.items()}


def change_inputs(inputs: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Inputs with their floating-point tensors changed: other pictures, same shapes."""
    return {key: change(value) if _floats(value) else value for key, value in inputs.items()}


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
