"""The reducers that every backbone is tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

ZERO: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "random": ("random", {"remove": 0}),
    "tome": ("tome", {"r": 0}),
    "evit": ("evit", {"keep": 1.0}),
    "pumer": ("pumer", {"prune": 0, "merge": 0, "text_merge": 0}),
    "dynamicvit": ("dynamicvit", {"keep": 1.0}),
}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {"keep": 0.6}),
    "tome": ("tome", {"r": 3}),
    "evit": ("evit", {"keep": 0.6}),
    "pumer": ("pumer", {}),
    "dynamicvit": ("dynamicvit", {"keep": 0.6}),
}
CROSSING: dict[str, tuple[str, dict[str, Any]]] = {
    **PLAIN,
    "evit-text": ("evit", {"keep": 0.6, "saliency": "text"}),
    "evit-key-norm": ("evit", {"keep": 0.6, "saliency": "key-norm"}),
    "evit-drop": ("evit", {"keep": 0.6, "fuse": False}),
    "pumer-class": ("pumer", {"saliency": "class"}),
    "pumer-joint": ("pumer", {"modality_aware": False}),
    "pumer-merge": ("pumer", {"prune": 0, "merge": 0.4}),
}


def table(cases: dict[str, Any]) -> list[Any]:
    return [pytest.param(case, id=name) for name, case in cases.items()]


@pytest.fixture(params=table(ZERO))
def zero(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A reducer that removes nothing, and its options."""
    return request.param


@pytest.fixture(params=table(PLAIN))
def reducer(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A reducer with options, for any backbone with a class token."""
    return request.param


@pytest.fixture(params=table(CROSSING))
def crossing(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A reducer with options, for a backbone with text and image in one sequence."""
    return request.param


@pytest.fixture(params=table({k: v for k, v in CROSSING.items() if k != "random"}))
def deterministic(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Like ``crossing``, without the reducers whose choice depends on the place in the batch."""
    return request.param


@pytest.fixture(scope="session")
def shrink() -> Callable[..., dict[str, Any]]:
    """Arguments that make a timm ``VisionTransformer`` small: two blocks, narrow ones if its embedding allows it."""

    def of(name: str, grid: int, **arguments: Any) -> dict[str, Any]:
        import timm

        with torch.device("meta"):
            plain = timm.create_model(name, depth=2, **arguments)
        patch = plain.patch_embed.img_size[0] // plain.patch_embed.grid_size[0]
        block = plain.blocks[0]
        heads = (
            getattr(block, "num_heads", None) or (block.attns[0] if hasattr(block, "attns") else block).attn.num_heads
        )
        fixed = hasattr(plain.patch_embed, "backbone") and isinstance(plain.patch_embed.proj, torch.nn.Identity)
        return {
            "depth": 2,
            "img_size": patch * grid,
            **({} if fixed else {"embed_dim": heads * (16 if heads % 2 else 12)}),
        }

    return of


@pytest.fixture
def compiler_from_scratch() -> Iterator[None]:
    """Nothing compiled before, and nothing counted."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
