"""A few samples under the rows of an ablation."""

from __future__ import annotations

from ..backbones.dispatch import device_of
from ..errors import UnsupportedCallError
from ..lab.plan import one_per_variant
from ..lab.result import Picture, Result
from ..lab.tuned_weights import tuned_task
from ..tasks.data import as_batch, on_device, take
from ..tasks.task import Batch, Task
from .sample_view import answers, attach_traced, pictures


def gallery(task: Task, batch: Batch, result: Result, count: int) -> list[Picture]:
    """Pictures of ``count`` samples of a batch under one row of each variant, sample by sample.

    The samples are those on which the rows disagree most, and as many from the front of the batch. A task that does not
    show its samples, and rows whose tokens are not patches, give no pictures.

    Args:
        batch: the first batch that ``result`` was made with.
    """
    if task.samples is None or count < 1:
        return []
    batch = on_device(as_batch(batch), device_of(task.model))
    chosen = choose(result, len(batch), count)
    samples = task.samples(batch)
    shown = [samples[i] for i in chosen]
    inputs = take(batch.inputs, len(batch), chosen)
    base = result.row(result.setup["baseline"])
    before = answers(task, inputs, {"reducer": base.reducer, **base.options})
    by_row = []
    for row in one_per_variant(result.rows):
        try:
            own = tuned_task(task, row.weights) if row.weights else task
            with attach_traced(own, row.reducer, row.options, row.weights) as handle:
                by_row.append(pictures(own, inputs, shown, row.name, handle, before))
        except UnsupportedCallError as error:
            result.setup.setdefault("notes", []).append(f"no pictures of {row.name}: {error}")
    return [pictures_of[i] for i in range(len(chosen)) for pictures_of in by_row]


def choose(result: Result, size: int, count: int) -> list[int]:
    """Samples of the first batch: those that most rows judge otherwise than the baseline, then those in front."""
    base = result.row(result.setup["baseline"]).scores
    rows = [row.scores for row in one_per_variant(result.rows)]
    changed = [sum(abs(scores[i] - base[i]) for scores in rows) for i in range(min(size, len(base)))]
    order = sorted(range(len(changed)), key=lambda i: (-changed[i], i))[: (count + 1) // 2]
    rest = [i for i in range(size) if i not in order]
    return sorted((order + rest)[:count])
