"""Fine-tuning a model with a reducer attached: resumable, evaluated on the way, the best weights kept."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._torch import call, evaluating
from ..attachments.lifecycle import attach
from ..errors import OptionError
from ..tasks.data import on_device
from ..tasks.fingerprint import model_fingerprint
from .distillation import distill
from .loop import Loop, Progress, seed_draws
from .losses import total
from .optimizer import adamw, linear_decay
from .published import published_recipe
from .recipe import Recipe
from .run_folder import RunFolder
from .run_lock import run_lock
from .teacher import reducer_losses
from .warmup import warmup

if TYPE_CHECKING:
    from ..attachments.handle import Attachment
    from ..tasks.task import Batch, Task

Watch = Callable[[Mapping[str, Any]], None]


@dataclass
class FinetuneResult:
    """What a fine-tuning found.

    Attributes:
        folder: with the best weights, or the last ones where the recipe says so, for ``tokenreduce ablate --tuned``.
        accuracy: on the validation samples, of these weights; ``step`` is theirs.
        start: before the first step, reducer attached; ``unreduced``: of the model without it.
        steps: made in all; ``stopped`` says that it ended early.
    """

    folder: Path
    accuracy: float
    step: int
    start: float
    unreduced: float
    steps: int
    stopped: bool


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
        recipe: the method's own if left out (:func:`tokenreduce.train.published_recipe`).
        out: folder of this run: ``run.json``, ``log.jsonl``, ``checkpoint.pt`` and ``best``.
        watch: called with every line of the log.

    Raises:
        OptionError: the task cannot be trained, the folder holds another run or has one at work in it, or the loss or
            every accuracy is not a number.

    And what attach raises. The model carries no attachment afterwards.
    """
    recipe = recipe or published_recipe(options.get("reducer", reducer))
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
    with run_lock(folder.path), attach(model, **chosen) as handle:
        settings = {"task": task.name, "model": before, "attach": handle.config, "recipe": recipe.to_json()}
        folder.claim(settings)
        try:
            return _Run(task, handle, folder, recipe, teacher, watch or (lambda line: None)).result()
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


@dataclass
class _Progress(Progress):
    best: float = -math.inf
    best_step: int = 0
    start: float = math.nan
    unreduced: float = math.nan
    since_best: int = 0  # evaluations


class _Run:
    """The loop's callbacks for a task, its attachment and a recipe."""

    def __init__(
        self, task: Task, handle: Attachment, folder: RunFolder, recipe: Recipe, teacher: nn.Module | None, watch: Watch
    ) -> None:
        assert task.train is not None and task.validation is not None and task.loss is not None
        self.task, self.handle, self.folder, self.recipe, self.watch = task, handle, folder, recipe, watch
        self.model, self.train, self.loss = handle.model, task.train, task.loss
        self.validation = task.validation(recipe.validation_samples, 50)
        weights = {name: getattr(recipe, name) for name in ("temperature", "task", "logits", "hidden", "own", "full")}
        self.distillation = distill(handle, teacher, **weights) if recipe.distillation else None
        self.progress = _Progress()
        self.loop = Loop(
            {"model": self.model},
            adamw(self.model, recipe),
            recipe,
            folder.checkpoint,
            schedule=lambda step: linear_decay(step, recipe.steps, recipe.warmup),
            batch=self._batch,
            losses=self._losses,
            evaluate=self._evaluate,
            report=self._report,
            stop=self._stops_early,
            progress=self.progress,
        )

    def result(self) -> FinetuneResult:
        """Run from the last checkpoint, or the start, to the end."""
        progress = self.progress
        resumed = self.loop.resume()
        self.folder.rewind(progress.step if resumed else None)
        if not resumed:
            with self.handle.paused():
                progress.unreduced = self._accuracy()
            progress.start = self._accuracy()
            line = {"accuracy": progress.start, "unreduced": progress.unreduced}
            self._report({"step": 0, "steps": self.recipe.steps, **line})
        self.loop.run()
        if not progress.best_step:
            raise OptionError(
                f"the metric of {self.task.name!r} gave no number in any evaluation; it must give a score per sample"
            )
        found = progress.best, progress.best_step, progress.start, progress.unreduced, progress.step
        return FinetuneResult(self.folder.best, *found, self._stops_early())

    def _batch(self, step: int) -> Batch:
        recipe = self.recipe
        if recipe.reduction_warmup:
            self.handle.scale(warmup(step, 0, recipe.reduction_warmup * recipe.steps, recipe.reduction_shape))
        return on_device(self.train(recipe.seed, step * recipe.batch, recipe.batch), self.loop.device)

    def _losses(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self.distillation is not None:
            lesson = self.distillation(batch.inputs, lambda output: self.loss(output, batch.targets))
            return lesson.loss, lesson.terms
        terms = {"task": self.recipe.task * self.loss(call(self.model, batch.inputs), batch.targets)}
        terms |= {name: self.recipe.own * value for name, value in reducer_losses(self.handle).items()}
        return total(terms), terms

    def _evaluate(self, step: int) -> dict[str, float]:
        """The accuracy; the weights are saved if it is the best so far, or the last ones are wanted."""
        accuracy, progress = self._accuracy(), self.progress
        progress.since_best += 1
        if accuracy > progress.best or (self.recipe.last and not math.isnan(accuracy)):
            progress.best, progress.best_step, progress.since_best = accuracy, step, 0
            facts = {"task": self.task.name, "accuracy": accuracy, "step": step, "recipe": self.recipe.to_json()}
            self.folder.save_best(self.handle, {**facts, "start": progress.start, "unreduced": progress.unreduced})
        return {"accuracy": accuracy}

    def _accuracy(self) -> float:
        """Mean score of the validation samples with all that is configured in force."""
        scores: list[float] = []
        if self.recipe.reduction_warmup:
            self.handle.scale(1)  # the next step sets its own
        with evaluating(self.model):
            for index, batch in enumerate(self.validation):
                torch.manual_seed(index)
                moved = on_device(batch, self.loop.device)
                scores += torch.as_tensor(
                    self.task.metric(self.task.ask(self.model, moved.inputs), moved.targets)
                ).tolist()
        return float(sum(scores) / len(scores))

    def _stops_early(self) -> bool:
        return bool(self.recipe.patience) and not self.recipe.last and self.progress.since_best >= self.recipe.patience

    def _report(self, line: dict[str, Any]) -> None:
        self.folder.append_log(line)
        self.watch(line)
