"""Plain functions and classes that tests of several folders share: ``from ..helpers import gradients``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokenreduce import Reducer

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("what", "colour", "is", "the", "ball", "how", "many", "a", "photo", "of", "cat", "dog", "?"),
    *("red", "two", "yes", "no", "it"),
]
"""The vocabulary of the tests' tokenizers."""


class Killed(Exception):
    """Stands for the signal that ends a training run."""


class KeyNorm(Reducer):
    """Keeps tokens with long keys."""

    needs = {"keys"}

    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(signals.keys.norm(dim=-1), remove=remove)


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    """The id of a test with a reducer and its options."""
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of a loss by the weights' names, and no others left on the model before."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that gradients agree, relative to the largest of all."""
    assert got.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    wrong = {key: float((got[key] - expected[key]).abs().max()) for key in expected}
    worst = max(wrong, key=wrong.__getitem__)
    assert wrong[worst] <= 1e-5 * scale, f"{worst} differs by {wrong[worst]:.3g} at a scale of {scale:.3g}"


def enable_checkpointing(model: nn.Module, use_reentrant: bool = False) -> None:
    """Switch gradient checkpointing on, block by block, in a model of transformers or timm."""
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing()
        return
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
