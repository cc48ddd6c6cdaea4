"""The embedded task: questions about real handwritten digits, answered by a small trained ViLT."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce import TaskSpec, hookimpl


@hookimpl
def tokenreduce_tasks() -> Iterator[TaskSpec]:
    yield TaskSpec(
        "vilt-digits", "tokenreduce_digits.task:vilt_digits", "ViLT answering questions about handwritten digits"
    )
