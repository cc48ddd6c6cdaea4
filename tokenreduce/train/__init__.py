"""Training with fewer tokens: a teacher that has them all, and one loop for fine-tuning and for training from scratch.

Users find ``finetune``, ``distill``, ``Recipe`` and ``Warmup`` at the top of the library. The names here are for
training scripts of tasks:

    loop = Loop({"model": model}, optimizer, LoopSettings(steps=1000, batch=32), folder / "checkpoint.pt",
                schedule=..., batch=..., losses=..., evaluate=..., report=...)
    loop.resume()   # from the checkpoint, if there is one
    loop.run()
"""

from __future__ import annotations

from .loop import Loop, LoopSettings
from .optimizer import adamw, linear_decay, trapezoid
from .progress import Progress, progress_text
from .weights import load_weights, save_weights

__all__ = [
    "Loop",
    "LoopSettings",
    "Progress",
    "adamw",
    "linear_decay",
    "load_weights",
    "progress_text",
    "save_weights",
    "trapezoid",
]
