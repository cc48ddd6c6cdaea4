"""The embedded tasks: real handwritten digits, questions for a small trained ViLT, captions for a small CLIP."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import TaskSpec, hookimpl

ROWS = ("none", "random", "tome", "evit", "pumer")


@hookimpl
def tokenreduce_tasks() -> Iterator[TaskSpec]:
    yield TaskSpec(
        "vilt-scenes",
        "tokenreduce_digits.crowded.task:vilt_scenes",
        "ViLT answering questions about small digits in crowded scenes",
        variants=("random tuned", "pumer tuned", "smarttrim trained"),
        rows=("none", "random", "tome", "pumer", "random tuned", "pumer tuned"),
    )
    yield TaskSpec(
        "vilt-digits",
        "tokenreduce_digits.task:vilt_digits",
        "ViLT answering questions about handwritten digits",
        variants=(),
        rows=ROWS,
    )
    yield TaskSpec(
        "clip-digits",
        "tokenreduce_digits.clip_task:clip_digits",
        "CLIP finding the caption of a handwritten digit",
        variants=(),
        rows=ROWS,
    )
    yield TaskSpec(
        "meter-digits",
        "tokenreduce_digits.meter_task:meter_digits",
        "METER answering questions about handwritten digits",
        variants=("pumer + tome in vision",),
        rows=(*ROWS, "pumer + tome in vision"),
    )
