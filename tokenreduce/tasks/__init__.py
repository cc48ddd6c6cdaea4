"""Tasks: a model, data to judge it on, and a metric; and loaders, which make tasks of models by name."""

from __future__ import annotations

from .._torch import Inputs
from .batches import Scale, Target
from .checkpoint_config import folder_config
from .loader import Loader, Record
from .loading import load_task
from .records import read_records
from .scoring import Labels, logits_of, normalize_answer, vqa_accuracy
from .task import Batch, Sample, Task
from .task_types import Source, best_text, classes, questions, texts_of
from .zero_shot import ZeroShot

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
    "ZeroShot",
    "best_text",
    "classes",
    "folder_config",
    "load_task",
    "logits_of",
    "normalize_answer",
    "questions",
    "read_records",
    "texts_of",
    "vqa_accuracy",
]
