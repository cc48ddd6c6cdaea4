"""The ``Trainer`` of transformers with a teacher."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from tokenreduce import Distillation, Warmup
from tokenreduce.errors import OptionError
from tokenreduce.train.losses import total


class DistillationTrainer(Trainer):
    """Trains a model with a reducer attached, the unreduced model teaching. All else is the ``Trainer``'s.

        handle = tokenreduce.attach(model, "pumer")
        trainer = DistillationTrainer(model, arguments, train_dataset=data, distillation=tokenreduce.distill(handle))

    The loss is the sum of the distillation's terms; the task's own is what the ``Trainer`` would have taken (labels,
    ``compute_loss_func``, label smoothing) as a mean over the batch. Terms are logged as ``loss_task``,
    ``loss_logits`` ... Evaluation is with fewer tokens and without the teacher. Beside every saved model stand
    ``tokenreduce.json`` and a learnable reducer's weights, so that ``tokenreduce.load(model, folder)`` attaches it.

    Args:
        distillation: of an attachment on ``model``, made before.
        schedule: lets the reduction begin gently; its steps follow the trainer's, after a resumed run too.

    Raises:
        OptionError: the attachment is not on this model, or not there any more.
    """

    def __init__(self, *args: Any, distillation: Distillation, schedule: Warmup | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        handle = distillation.handle
        if handle.model is not self.model or not handle.attached:
            raise OptionError(
                "the distillation is of an attachment that this model does not carry; attach to the model that the "
                "trainer is given, then tokenreduce.distill(handle)"
            )
        self.distillation, self.schedule = distillation.to(self.args.device), schedule
        self.model_accepts_loss_kwargs = False  # terms are means over the batch, for the model's own loss too
        self.loss_is_scaled_for_ga = False
        self._terms: defaultdict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The task's loss in evaluation, the sum of all terms in training."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        if self.schedule is not None:
            self.schedule.load_state_dict({"steps": self.state.global_step})
        apart = self.label_smoother is not None or self.compute_loss_func is not None
        taught = self.distillation.teach({k: v for k, v in inputs.items() if not (apart and k == "labels")}, model)
        with self.distillation.listening():
            task, output = super().compute_loss(model, inputs, return_outputs=True)
            terms = self.distillation.compare(output, taught, task)
        for name, value in terms.items():
            self._terms[name].append(float(value.detach()))
        loss = total(terms)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With the mean of every term since the last training log."""
        if "loss" in logs and self._terms:
            logs |= {f"loss_{name}": sum(values) / len(values) for name, values in self._terms.items()}
            self._terms.clear()
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model, and what :func:`tokenreduce.load` needs beside it."""
        super().save_model(output_dir, _internal_call)
        self.distillation.handle.save(output_dir or self.args.output_dir)
