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
