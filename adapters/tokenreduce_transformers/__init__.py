"""Models of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce import AdapterSpec, hookimpl


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "hf-vilt",
        "tokenreduce_transformers.vilt:Vilt",
        "ViLT of transformers",
        library="transformers",
        models="ViltModel and every ViltFor... of transformers",
    )
    yield AdapterSpec(
        "hf-bridgetower",
        "tokenreduce_transformers.bridgetower:BridgeTower",
        "BridgeTower of transformers",
        library="transformers",
        models="BridgeTowerModel and its heads for retrieval and masked language modelling",
    )
