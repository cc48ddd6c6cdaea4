"""METER: the model itself, and its adapter."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from tokenreduce.registry import AdapterSpec, LoaderSpec, hookimpl

_LAZY = {  # imported on first use: these need torch, transformers and open_clip
    "MeterConfig": "config",
    "MeterForImageAndTextRetrieval": "heads",
    "MeterForImagesAndTextClassification": "heads",
    "MeterForQuestionAnswering": "heads",
    "MeterForVisualEntailment": "heads",
    "MeterModel": "model",
}

__all__ = sorted(_LAZY)


@hookimpl
def tokenreduce_adapters() -> Iterator[AdapterSpec]:
    yield AdapterSpec(
        "meter",
        "tokenreduce_models.meter.adapter:Meter",
        "METER: CLIP's vision tower, RoBERTa, and levels of co-attention",
        library="transformers",
        models="the METER models of tokenreduce_models.meter, and models built from the published code",
        requires=("open_clip",),
        install="tokenreduce[meter]",
    )


@hookimpl
def tokenreduce_loaders() -> Iterator[LoaderSpec]:
    yield LoaderSpec(
        "meter",
        "tokenreduce_models.meter.loader:Meter",
        "METER answering questions",
        library="transformers",
        models="a folder of save_pretrained: MeterForQuestionAnswering, its tokenizer and answers (id2label)",
        requires=("open_clip",),
        install="tokenreduce[meter]",
    )


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
