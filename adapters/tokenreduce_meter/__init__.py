"""METER: the model itself, and its adapter."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce import AdapterSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield from ()
