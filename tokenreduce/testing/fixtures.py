"""Fixtures for pytest: ``pytest_plugins = ["tokenreduce.testing"]`` in a conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..registry.registry import Registry, default_registry, use_registry


@pytest.fixture
def fresh_registry() -> Iterator[Registry]:
    """A copy of the registry, in force for one test: what is added to it, or broken in it, is gone afterwards."""
    with use_registry(default_registry().copy()) as registry:
        yield registry
