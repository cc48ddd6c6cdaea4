"""One fine-tuning on the training loop: its batches, losses and evaluations, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._torch import call, evaluating
from ..errors import OptionError
from ..tasks.data import on_device
from .distill import distill
from .loop import Loop, LoopSettings
from .losses import total
from .optimizer import adamw, linear_decay
from .progress import Progress
from .recipe import Recipe
from .run_folder import RunFolder
from .warmup import warmup

if TYPE_CHECKING:
    from ..attachments.handle import Attachment
    from ..tasks.task import Batch, Task

Watch = Callable[[Mapping[str, Any]], None]


@dataclass
class FinetuneResult:
    """What a fine-tuning found.

    Attributes:
        folder: with the best weights, for ``tokenreduce ablate --tuned``.
        accuracy: on the validation samples, of the best weights; ``step`` is theirs.
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


@dataclass
class _Progress(Progress):
    best: float = -math.inf
    best_step: int = 0
    start: float = math.nan
    unreduced: float = math.nan
    since_best: int = 0  # evaluations


class FinetuneRun:
    """The loop's callbacks for a task, its attachment and a recipe."""

    def __init__(
        self, task: Task, handle: Attachment, folder: RunFolder, recipe: Recipe, teacher: nn.Module | None, watch: Watch
    ) -> None:
        assert task.train is not None and task.validation is not None and task.loss is not None
        self.task, self.handle, self.folder, self.recipe, self.watch = task, handle, folder, recipe, watch
        self.model, self.train, self.loss = handle.model, task.train, task.loss
        self.validation = task.validation(recipe.validation_samples, 50)
        weights = {name: getattr(recipe, name) for name in ("temperature", "task", "logits", "hidden", "own")}
        self.distillation = distill(handle, teacher, **weights) if recipe.distillation else None
        self.progress = _Progress()
        self.loop = Loop(
            {"model": self.model},
            adamw(self.model, recipe.lr, recipe.weight_decay, recipe.reducer_lr),
            LoopSettings(
                recipe.steps,
                recipe.batch,
                recipe.seed,
                save_every=recipe.save_every,
                evaluate_every=recipe.validate_every,
                max_grad_norm=recipe.max_grad_norm,
                bf16=recipe.bf16,
            ),
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
            self.handle.scale(warmup(step, 0, recipe.reduction_warmup * recipe.steps, "cosine"))
        return on_device(self.train(recipe.seed, step * recipe.batch, recipe.batch), self.loop.device)

    def _losses(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self.distillation is not None:
            lesson = self.distillation(batch.inputs, lambda output: self.loss(output, batch.targets))
            return lesson.loss, lesson.terms
        terms = {"task": self.recipe.task * self.loss(call(self.model, batch.inputs), batch.targets)}
        terms |= {name: self.recipe.own * value for name, value in self.handle.losses().items()}
        return total(terms), terms

    def _evaluate(self, step: int) -> dict[str, float]:
        """The accuracy; the weights are saved if it is the best so far."""
        accuracy, progress = self._accuracy(), self.progress
        progress.since_best += 1
        if accuracy > progress.best:
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
                scores += torch.as_tensor(self.task.metric(call(self.model, moved.inputs), moved.targets)).tolist()
        return float(sum(scores) / len(scores))

    def _stops_early(self) -> bool:
        return bool(self.recipe.patience) and self.progress.since_best >= self.recipe.patience

    def _report(self, line: dict[str, Any]) -> None:
        self.folder.append_log(line)
        self.watch(line)
