"""Fine-tuning a model with a reducer attached: resumable, evaluated on the way, the best weights kept."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attachments.attach import attach
from ..errors import OptionError
from ..tasks.fingerprint import model_fingerprint
from .finetune_run import FinetuneResult, FinetuneRun, Watch
from .loop import seed_draws
from .recipe import Recipe
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..tasks.task import Task


def finetune(
    task: Task,
    reducer: Any,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> FinetuneResult:
    """Train a task's model with a reducer attached, the unreduced model teaching; its weights are those of the end.

    Started again with the same arguments it resumes from the last checkpoint; as every step's samples and draws
    follow from the seed and the step, the result is that of a run that was never interrupted.

    Args:
        task: with ``train``, ``validation`` and ``loss``.
        reducer: as for :func:`tokenreduce.attach`, with ``**options`` (``layers`` among them); the settings of the
            task for a reducer of that name where none are given.
        out: folder of this run: ``run.json``, ``log.jsonl``, ``checkpoint.pt`` and ``best``.
        watch: called with every line of the log.

    Raises:
        OptionError: the task cannot be trained, the folder holds another run, or the loss is not finite.

    And what attach raises. The model carries no attachment afterwards.
    """
    recipe = recipe or Recipe()
    check_trainable(task)
    model, folder = task.model, RunFolder(Path(out))
    chosen = dict(options or (task.settings.get(reducer, {}) if isinstance(reducer, str) else {}))
    chosen.setdefault("reducer", reducer)
    if recipe.hidden:
        chosen["trace"] = True
    before = model_fingerprint(model)
    teacher = None if recipe.same_weights or not recipe.distillation else copy.deepcopy(model)
    seed_draws(recipe.seed)
    was_training = model.training
    with attach(model, **chosen) as handle:
        settings = {"task": task.name, "model": before, "attach": handle.config, "recipe": recipe.to_json()}
        folder.claim(settings)
        try:
            return FinetuneRun(task, handle, folder, recipe, teacher, watch or (lambda line: None)).result()
        finally:
            model.train(was_training)


def check_trainable(task: Task) -> None:
    """Raise OptionError where a task has no training data or no loss, or where several processes would train it."""
    missing = [name for name in ("train", "validation", "loss") if getattr(task, name) is None]
    if missing:
        raise OptionError(
            f"the task {task.name!r} has no {', '.join(missing)}, so it cannot be fine-tuned here; give the Task "
            "those, or train the attached model in a loop of your own with tokenreduce.distill"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError(
            "finetune runs in one process; for several, use tokenreduce.distill in your own loop, or the "
            "trainer of the model's library"
        )


def summary(found: Sequence[FinetuneResult]) -> str:
    """Accuracy of several seeds, in words."""
    values = [100 * one.accuracy for one in found]
    return f"{sum(values) / len(values):.1f} % ({min(values):.1f} to {max(values):.1f}, {len(values)} seeds)"
