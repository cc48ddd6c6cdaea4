"""The loop of a fine-tuning: steps, evaluations, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._torch import call, evaluating
from ..attachments.handle import Attachment
from ..errors import OptionError, TokenReduceError
from ..tasks.data import on_device
from .distill import distill
from .losses import total
from .recipe import Recipe, adamw, parameters_of, rate, set_rate
from .run_folder import Folder
from .teacher import reducer_losses
from .warmup import warmup

if TYPE_CHECKING:
    from ..tasks.task import Batch, Task
    from .teacher import Distillation

Watch = Callable[[Mapping[str, Any]], None]
STRIDE = 1_000_003  # between the seeds of runs


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
class _Run:
    """What changes while it goes on, beside model and optimizer."""

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    start: float = math.nan
    unreduced: float = math.nan
    stale: int = 0
    means: dict[str, float] = field(default_factory=dict)


class Loop:
    """One run, from its last checkpoint on."""

    def __init__(
        self, task: Task, handle: Attachment, folder: Folder, recipe: Recipe, teacher: nn.Module | None, watch: Watch
    ) -> None:
        self.task, self.handle, self.folder, self.recipe, self.watch = task, handle, folder, recipe, watch
        self.model = handle.model
        self.device = next(self.model.parameters()).device
        self.distillation: Distillation | None = None
        if recipe.distillation:
            weights = {name: getattr(recipe, name) for name in ("temperature", "task", "logits", "hidden", "own")}
            self.distillation = distill(handle, teacher, **weights)
        self.optimizer = adamw(self.model, recipe)
        assert task.validation is not None
        self.validation = task.validation(recipe.validation_samples, 50)
        self.state = _Run()

    def run(self) -> FinetuneResult:
        """From the last checkpoint, or the start, to the end."""
        recipe, state = self.recipe, self.state
        if not self._resume():
            with self.handle.paused():
                state.unreduced = self._accuracy()
            state.start = self._accuracy()
            self._say({"step": 0, "accuracy": state.start, "unreduced": state.unreduced})
        while state.step < recipe.steps and not self._tired():
            begun = time.perf_counter()
            terms = self._step()
            spent = time.perf_counter() - begun
            for name, value in {**terms, "seconds": spent}.items():
                state.means[name] = 0.95 * state.means.get(name, value) + 0.05 * value
            last = state.step == recipe.steps
            judged = last or state.step % recipe.validate_every == 0
            if judged or state.step % 50 == 0:
                self._report(judged)
            if judged or state.step % recipe.save_every == 0:
                self._save()
        return FinetuneResult(
            self.folder.best, state.best, state.best_step, state.start, state.unreduced, state.step, self._tired()
        )

    def _step(self) -> dict[str, float]:
        """One step; the terms of its loss."""
        recipe, state, task = self.recipe, self.state, self.task
        assert task.train is not None and task.loss is not None
        torch.manual_seed(recipe.seed * STRIDE + state.step + 1)
        set_rate(self.optimizer, rate(state.step, recipe.steps, recipe.warmup))
        if recipe.gentle:
            self.handle.scale(warmup(state.step, 0, recipe.gentle * recipe.steps, "cosine"))
        batch = on_device(task.train(recipe.seed, state.step * recipe.batch, recipe.batch), self.device)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            loss, terms = self._loss(batch)
        torch.autograd.backward(loss)
        if recipe.max_grad_norm:
            nn.utils.clip_grad_norm_(parameters_of(self.optimizer), recipe.max_grad_norm)
        values = {name: float(value.detach()) for name, value in terms.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise OptionError(
                f"the loss is no number any more at step {state.step + 1} ({values}); begin anew with a lower lr, or "
                "with max_grad_norm=1"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        return values

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, recipe = self.task.loss, self.recipe
        assert loss is not None
        if self.distillation is not None:
            lesson = self.distillation(batch.inputs, lambda output: loss(output, batch.targets))
            return lesson.loss, lesson.terms
        terms = {"task": recipe.task * loss(call(self.model, batch.inputs), batch.targets)}
        terms |= {name: recipe.own * value for name, value in reducer_losses(self.handle).items()}
        return total(terms), terms

    def _report(self, judged: bool) -> None:
        recipe, state = self.recipe, self.state
        means = {name: round(value, 5) for name, value in state.means.items()}
        line: dict[str, Any] = {"step": state.step, **means, "lr": self.optimizer.param_groups[0]["lr"]}
        line["samples_per_second"] = round(recipe.batch / state.means["seconds"], 1)
        if judged:
            line["accuracy"] = accuracy = self._accuracy()
            better = accuracy > state.best
            state.stale = 0 if better else state.stale + 1
            if better:
                state.best, state.best_step = accuracy, state.step
                facts = {"task": self.task.name, "accuracy": accuracy, "step": state.step, "recipe": recipe.to_json()}
                self.folder.keep(self.handle, {**facts, "start": state.start, "unreduced": state.unreduced})
        self._say(line)

    def _accuracy(self) -> float:
        """Mean score of the validation samples with all that is configured in force."""
        scores: list[float] = []
        if self.recipe.gentle:
            self.handle.scale(1)  # for what is kept of it, too; the next step sets its own
        with evaluating(self.model):
            for index, batch in enumerate(self.validation):
                torch.manual_seed(index)
                moved = on_device(batch, self.device)
                scores += torch.as_tensor(self.task.metric(call(self.model, moved.inputs), moved.targets)).tolist()
        return float(sum(scores) / len(scores))

    def _tired(self) -> bool:
        return bool(self.recipe.patience) and self.state.stale >= self.recipe.patience

    def _say(self, line: Mapping[str, Any]) -> None:
        self.folder.note(line)
        self.watch({**line, "steps": self.recipe.steps})

    def _save(self) -> None:
        progress = json.dumps(vars(self.state))
        self.folder.save(
            {
                "step": self.state.step,
                "progress": progress,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def _resume(self) -> bool:
        saved = self.folder.load()
        if saved is None:
            return False
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            vars(self.state).update(json.loads(saved["progress"]))
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, TokenReduceError):
                raise
            raise OptionError(
                f"the checkpoint in {self.folder.path} does not fit ({error}); name another --out"
            ) from error
        return True
