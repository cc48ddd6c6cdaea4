"""The reducers that every backbone is tested with."""

from __future__ import annotations

from typing import Any

import pytest

ZERO: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "random": ("random", {"remove": 0}),
    "tome": ("tome", {"r": 0}),
    "evit": ("evit", {"keep": 1.0}),
    "pumer": ("pumer", {"prune": 0, "merge": 0, "text_merge": 0}),
}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {"keep": 0.6}),
    "tome": ("tome", {"r": 3}),
    "evit": ("evit", {"keep": 0.6}),
    "pumer": ("pumer", {}),
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
