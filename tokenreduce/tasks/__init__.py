"""Tasks: a model, data to judge it on, and a metric; and loaders, which make tasks of models by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._torch import Inputs
    from .batches import Scale, Target
    from .checkpoint_config import folder_config
    from .inputs import image_size, resize_inputs
    from .loader import Loader, Record
    from .loading import load_task
    from .records import read_records
    from .scoring import Labels, logits_of, normalize_answer, vqa_accuracy
    from .task import Batch, Sample, Task, Tile
    from .task_types import Source, best_text, classes, questions, texts_of
    from .zero_shot import ZeroShot

_LAZY = {  # imported on first use: most of them need torch
    "Batch": "task",
    "Inputs": "task",
    "Labels": "scoring",
    "Loader": "loader",
    "Record": "loader",
    "Sample": "task",
    "Scale": "batches",
    "Source": "task_types",
    "Target": "batches",
    "Task": "task",
    "Tile": "task",
    "ZeroShot": "zero_shot",
    "best_text": "task_types",
    "classes": "task_types",
    "folder_config": "checkpoint_config",
    "image_size": "inputs",
    "load_task": "loading",
    "logits_of": "scoring",
    "normalize_answer": "scoring",
    "questions": "task_types",
    "read_records": "records",
    "resize_inputs": "inputs",
    "texts_of": "task_types",
    "vqa_accuracy": "scoring",
}

__all__ = [
    "Batch",
    "Inputs",
    "Labels",
    "Loader",
    "Record",
    "Sample",
    "Scale",
    "Source",
    "Target",
    "Task",
    "Tile",
    "ZeroShot",
    "best_text",
    "classes",
    "folder_config",
    "image_size",
    "load_task",
    "logits_of",
    "normalize_answer",
    "questions",
    "read_records",
    "resize_inputs",
    "texts_of",
    "vqa_accuracy",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
