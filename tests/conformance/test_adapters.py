"""The kit over the registry: an adapter is tested by being there."""

from __future__ import annotations

import tokenreduce
from tokenreduce.testing import AdapterConformance


def conformance(name: str) -> type[AdapterConformance]:
    """The class of tests of one registered adapter."""
    return type(f"Test_{name}", (AdapterConformance,), {"adapter": name})


for _name in tokenreduce.registry.default_registry().adapters:
    globals()[f"Test_{_name}"] = conformance(_name)
