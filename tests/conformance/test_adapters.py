"""The kit over the registry: an adapter is tested by being there."""

from __future__ import annotations

import tokenreduce
from tokenreduce.testing import AdapterConformance

SOME = {"hf-lvlm": ("LlavaForConditionalGeneration", "Gemma3ForConditionalGeneration")}
"""Examples to try, where the kit cannot take all: Qwen's patches of a batch stand in one sequence."""


def conformance(name: str) -> type[AdapterConformance]:
    """The class of tests of one registered adapter."""
    return type(f"Test_{name}", (AdapterConformance,), {"adapter": name, "examples": SOME.get(name)})


for _name in tokenreduce.registry.default_registry().adapters:
    globals()[f"Test_{_name}"] = conformance(_name)
