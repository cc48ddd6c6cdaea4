"""The question-answering task with METER in place of ViLT."""

from __future__ import annotations

from typing import Any

from tokenreduce.tasks.task import Task

from .meter_model import load
from .task import question_task

# About as many multiply-adds as PuMer's published schedule leaves in the levels of co-attention, so that rows compare.
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.6, "layers": [0, 1, 2, 3]},
    "evit": {"keep": 0.6, "layers": [0, 1, 2, 3]},
    "tome": {"r": [58, 35, 21, 12]},
    "pumer + tome in vision": {"reducer": {"cross": "pumer", "vision": {"reducer": "tome", "r": 20}}},
}


def meter_digits() -> Task:
    """The trained METER, held-out scenes, and whether the answer is right."""
    description = "questions about scenes of held-out handwritten digits, answered by METER"
    return question_task("meter-digits", load(), SETTINGS, description)
