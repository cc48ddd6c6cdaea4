"""The embedded tasks: real handwritten digits, questions for a small trained ViLT, captions for a small CLIP."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.registry import TaskSpec, hookimpl


@hookimpl
def tokenreduce_tasks() -> Iterator[TaskSpec]:
    yield TaskSpec(
        "vilt-digits",
        "tokenreduce_digits.task:vilt_digits",
        "ViLT answering questions about handwritten digits",
        variants=("pumer tuned",),
    )
    yield TaskSpec(
        "clip-digits",
        "tokenreduce_digits.clip_task:clip_digits",
        "CLIP finding the caption of a handwritten digit",
        variants=(),
    )
    yield TaskSpec(
        "meter-digits",
        "tokenreduce_digits.meter_task:meter_digits",
        "METER answering questions about handwritten digits",
        variants=("pumer + tome in vision",),
    )
