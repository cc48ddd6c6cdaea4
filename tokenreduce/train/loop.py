"""The training loop: optimizer steps, evaluations, reports, and checkpoints from which a run resumes exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..errors import OptionError, TokenReduceError
from .checkpoint import load_checkpoint, save_checkpoint
from .recipe import LoopSettings

B = TypeVar("B")
REPORT_EVERY = 50  # steps
SEED_STRIDE = 1_000_003  # between the seeds of runs
NOT_TERMS = ("step", "steps", "lr", "samples_per_second", "seconds")


@dataclass
class Progress:
    """What changes during a run, beside weights and optimizer; JSON-able. A subclass adds what its owner needs.

    Attributes:
        step: steps behind it.
        means: running means of the loss's terms and of ``"seconds"`` per step.
    """

    step: int = 0
    means: dict[str, float] = field(default_factory=dict)

    def advance(self, values: Mapping[str, float]) -> None:
        """Count a step, with its terms."""
        for name, value in values.items():
            self.means[name] = 0.95 * self.means.get(name, value) + 0.05 * value
        self.step += 1


class Loop(Generic[B]):
    """One run of training, from its last checkpoint to its last step.

    A step is a function of the weights, the optimizer, the seed and the step's number, so a run that was killed and
    resumed ends with the weights of one that was not.

    Args:
        modules: what is trained, by name, on one device; in training mode during each step.
        optimizer: the learning rate of each group is its highest one.
        settings: batch, clipping, precision, seed, and when to save and to evaluate.
        checkpoint: file of the last checkpoint.
        schedule: ``schedule(step)`` gives the share of the highest learning rate, steps counted from 0.
        batch: ``batch(step)`` gives what a step trains on; random draws in it are seeded.
        losses: ``losses(batch)`` gives the loss to minimize and its terms by name, as scalars.
        evaluate: ``evaluate(step)`` after that many steps; what it gives is added to the report.
        report: called with ``step``, ``steps``, running means of the terms and of ``seconds``, ``lr``,
            ``samples_per_second``, and what an evaluation gave.
        stop: asked before each step whether to end early.
        clipped: parameters whose gradient is clipped together; None for all of the optimizer.
        progress: where the run stands; its owner's own counts in a subclass are saved and restored with it.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        settings: LoopSettings,
        checkpoint: Path,
        *,
        schedule: Callable[[int], float],
        batch: Callable[[int], B],
        losses: Callable[[B], tuple[Tensor, Mapping[str, Tensor]]],
        evaluate: Callable[[int], Mapping[str, Any]],
        report: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool] = lambda: False,
        clipped: Iterable[nn.Parameter] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.modules, self.optimizer, self.settings, self.checkpoint = dict(modules), optimizer, settings, checkpoint
        self.schedule, self.batch, self.losses = schedule, batch, losses
        self.evaluate, self.report, self.stop = evaluate, report, stop
        self.progress = progress or Progress()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.clipped = parameters if clipped is None else list(clipped)
        self.device = parameters[0].device
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]

    def run(self) -> None:
        """Train from where the run stands to the last step, or until ``stop`` says so.

        Raises:
            OptionError: a term of the loss is not finite.
        """
        settings, progress = self.settings, self.progress
        while progress.step < settings.steps and not self.stop():
            self._step()
            evaluated = progress.step == settings.steps or progress.step % settings.validate_every == 0
            if evaluated or progress.step % REPORT_EVERY == 0:
                self._report(evaluated)
            if evaluated or progress.step % settings.save_every == 0:
                self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        modules = {name: module.state_dict() for name, module in self.modules.items()}
        progress = json.dumps(vars(self.progress))
        save_checkpoint(
            self.checkpoint, {"modules": modules, "optimizer": self.optimizer.state_dict(), "progress": progress}
        )

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; learning rates are those of this loop's optimizer.

        Raises:
            OptionError: it cannot be read, or is that of another run.
        """
        saved = load_checkpoint(self.checkpoint)
        if saved is None:
            return False
        try:
            for name, module in self.modules.items():
                module.load_state_dict(saved["modules"][name])
            self.optimizer.load_state_dict(saved["optimizer"])
            vars(self.progress).update(json.loads(saved["progress"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, TokenReduceError):
                raise
            raise OptionError(
                f"the checkpoint in {self.checkpoint.parent} does not fit ({error}); name another --out"
            ) from error
        return True

    def _step(self) -> None:
        begun, settings, step = time.perf_counter(), self.settings, self.progress.step
        seed_draws(settings.seed, step)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = self.schedule(step) * highest
        batch = self.batch(step)
        for module in self.modules.values():
            module.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            loss, terms = self.losses(batch)
        torch.autograd.backward(loss)
        if settings.max_grad_norm:
            nn.utils.clip_grad_norm_(self.clipped, settings.max_grad_norm)
        found = torch.stack([term.detach().float() for term in terms.values()]).tolist()
        values = dict(zip(terms, found, strict=True))
        if not all(math.isfinite(value) for value in found):
            raise OptionError(
                f"the loss of step {step + 1} is not finite ({values}); start over with a lower lr, or with a clipped "
                "gradient (max_grad_norm=1)"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.advance({**values, "seconds": time.perf_counter() - begun})

    def _report(self, evaluated: bool) -> None:
        means, step = self.progress.means, self.progress.step
        line: dict[str, Any] = {"step": step, "steps": self.settings.steps}
        line |= {name: round(value, 5) for name, value in means.items()}
        line["lr"] = self.optimizer.param_groups[0]["lr"]
        line["samples_per_second"] = round(self.settings.batch / means["seconds"], 1)
        if evaluated:
            line |= self.evaluate(step)
        self.report(line)


def seed_draws(seed: int, step: int = -1) -> None:
    """Seed torch's random numbers for a step, or for what comes before the first one."""
    torch.manual_seed(seed * SEED_STRIDE + step + 1)


def progress_text(line: Mapping[str, Any]) -> str:
    """A report of the loop for people: step, terms of the loss, speed, minutes left."""
    terms = " ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in NOT_TERMS)
    left = (line["steps"] - line["step"]) * line["seconds"] / 60
    speed = f"{line['samples_per_second']:.0f} samples/s"
    return f"step {line['step']}/{line['steps']}  {terms}  {speed}  {left:.0f} min left"
