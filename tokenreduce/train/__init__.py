"""Training with fewer tokens: a teacher that has them all, and one loop for fine-tuning and for training from scratch.

Users find ``finetune``, ``distill``, ``Recipe`` and ``Warmup`` at the top of the library; these names are for scripts.
"""

from __future__ import annotations

from .loop import Loop, Progress, progress_text
from .optimizer import adamw, linear_decay, trapezoid
from .published import published_recipe
from .recipe import LoopSettings
from .weights import load_weights, of_reducer_alone, save_weights

__all__ = [
    "Loop",
    "LoopSettings",
    "Progress",
    "adamw",
    "linear_decay",
    "load_weights",
    "of_reducer_alone",
    "progress_text",
    "published_recipe",
    "save_weights",
    "trapezoid",
]
