"""A teacher and a student side by side: the output of each, and the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import call, evaluating
from ..attachments.handle import Attachment
from ..backbones.stack import Stack
from ..errors import NoForwardError, OptionError, UnsupportedCallError
from . import hidden_states as states
from .losses import hidden_term, logits_term, total

Inputs = Mapping[str, Any] | tuple[Any, ...]
Read = Callable[[Any], Tensor]


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher gave for a batch: logits (B, ..., K), and tokens (B, N, C) by stack where they are asked for.

    ``output`` is the model's own, with gradients, where it learns from this pass too (``full``); else None.
    """

    logits: Tensor
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    output: Any = None


@dataclass(frozen=True)
class DistillationOutput:
    """One pass of the student beside its teacher.

    Attributes:
        loss: the sum of the terms, to call ``backward()`` on.
        output: what the student gave.
        terms: by name, as they count in the sum: ``"task"``, ``"logits"``, ``"hidden"``, ``"full"``, and the reducer's
            own.
    """

    loss: Tensor
    output: Any
    terms: dict[str, Tensor]


class Distillation:
    """A teacher beside a reduced model; made by :func:`tokenreduce.distill`.

    Called with a batch it runs both and gives the loss. Loops that call the model themselves use :meth:`teach` before
    and :meth:`compare` after that call.

    Attributes:
        handle: the attachment of the student.
        teacher: a frozen model, or None where the student's own weights teach.
        plain: an attachment that reduces nothing, on the teacher while it teaches; None where there is none.
        weights: of the terms ``"task"``, ``"logits"``, ``"hidden"``, ``"own"`` and ``"full"``.
    """

    def __init__(
        self,
        handle: Attachment,
        teacher: nn.Module | None,
        weights: Mapping[str, float],
        temperature: float,
        read: Read | None,
        plain: Attachment | None = None,
    ) -> None:
        self.handle, self.teacher = handle, teacher
        self.weights, self.temperature, self.read = dict(weights), temperature, read or logits_of
        self.plain = plain
        self._heard: states.Tokens = {}
        self._stacks: dict[str, Stack] = {}
        if weights["hidden"]:
            compared = (plain or handle).stacks if teacher is None or plain is not None else {}
            self._stacks = {name: one.stack for name, one in compared.items() if name in handle.stacks}
            self._check_hidden()

    def __call__(
        self, inputs: Inputs, task: Callable[[Any], Tensor] | None = None, model: nn.Module | None = None
    ) -> DistillationOutput:
        """Teacher, student, loss.

        Args:
            inputs: keyword arguments of the model's call, or a tuple of positional ones.
            task: ``task(output)`` gives the task's own loss; without it ``output.loss`` is taken, which models of
                transformers give where ``labels`` are among the inputs.
            model: the student as it is called, where it is wrapped (DDP, FSDP, ``torch.compile``).
        """
        teacher_output = self.teach(inputs, model)
        with self.listening():
            output = call(model or self.handle.model, inputs)
            full = None if task is None or teacher_output.output is None else task(teacher_output.output)
            terms = self.compare(output, teacher_output, None if task is None else task(output), full)
        return DistillationOutput(total(terms), output, terms)

    def teach(self, inputs: Inputs, model: nn.Module | None = None) -> TeacherOutput:
        """The teacher's output, in evaluation mode and without gradients. Call it before the student.

        With a weight ``full`` it is the student's own with all tokens, in its own mode and with gradients.

        Args:
            model: as above; the student's own weights teach through it where there is no other teacher.
        """
        teacher = self.teacher or model or self.handle.model
        learns = bool(self.weights["full"])
        mode = contextlib.nullcontext() if learns else evaluating(teacher)
        with self._without_reduction(), mode, states.listen(self._stacks) as heard:
            output = call(teacher, inputs)
            logits = self.read(output)
        if torch.is_autocast_enabled(logits.device.type):
            torch.clear_autocast_cache()  # it holds weights without history, which the student would take
        hidden = {name: states.join_tokens(heard, name).detach() for name in self._stacks}
        return TeacherOutput(logits.detach(), hidden, output if learns else None)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Around the student's call and :meth:`compare`, where hidden states are compared; else without effect."""
        own = {name: one.stack for name, one in self.handle.stacks.items() if name in self._stacks}
        with states.listen(own) as self._heard:
            yield

    def compare(
        self, output: Any, teacher_output: TeacherOutput, task: Tensor | None = None, full: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of the loss after the student's call, each times its weight; those of weight 0 are left out.

        Args:
            output: of the student.
            teacher_output: of :meth:`teach`, for the same inputs.
            task: the task's own loss, a scalar; None for ``output.loss``.
            full: the same of ``teacher_output.output``, where that has a weight.

        Raises:
            UnsupportedCallError: there is no task loss, or shapes differ.
            NoForwardError: hidden states are compared, and the student was not called inside :meth:`listening`.
        """
        terms: dict[str, Tensor] = {}
        weights = self.weights
        if weights["task"]:
            terms["task"] = weights["task"] * (_task_loss(output) if task is None else task)
        if weights["logits"]:
            terms["logits"] = weights["logits"] * logits_term(
                self.read(output), teacher_output.logits, self.temperature
            )
        if weights["hidden"]:
            terms["hidden"] = weights["hidden"] * self._hidden(teacher_output)
        if weights["full"]:
            terms["full"] = weights["full"] * (_task_loss(teacher_output.output) if full is None else full)
        if weights["own"]:
            terms |= {name: weights["own"] * value for name, value in reducer_losses(self.handle).items()}
        return terms

    def to(self, device: torch.device | str) -> Distillation:
        """The teacher moved to a device."""
        if self.teacher is not None:
            self.teacher.to(device)
        return self

    def _hidden(self, teacher_output: TeacherOutput) -> Tensor:
        heard = self._heard
        if not heard:
            raise NoForwardError("hidden states are compared; call the model inside 'with distillation.listening():'")
        found = [(*states.match_tokens(self.handle, heard, name), teacher_output.hidden[name]) for name in self._stacks]
        return torch.stack([hidden_term(own, other, weight) for own, weight, other in found]).mean()

    @contextlib.contextmanager
    def _without_reduction(self) -> Iterator[None]:
        """The teacher through the same engine as the student: its tokens in the same order, its attention fused."""
        if self.teacher is None:
            with self.handle.paused():
                yield
            return
        if self.plain is None or self.plain.attached:
            yield
            return
        self.plain.install()
        try:
            yield
        finally:
            self.plain.detach()

    def _check_hidden(self) -> None:
        if sorted(self._stacks) != sorted(self.handle.stacks):
            raise OptionError(
                f"hidden states of {', '.join(self.handle.stacks)} are to be compared, but the teacher has no such "
                "stack that can be listened to; give a teacher of the same family without an attachment, or leave "
                "hidden=0"
            )
        if not all(one.traced for one in self.handle.stacks.values()):
            raise OptionError("hidden states are compared token by token; attach with trace=True, or leave hidden=0")


def reducer_losses(handle: Attachment) -> dict[str, Tensor]:
    """What the reducers added to the loss in the last forward pass.

    Raises:
        NoForwardError: no forward pass yet.
    """
    if handle.last is None:
        raise NoForwardError("no forward pass yet; call model(...) once before the terms of its loss are asked for")
    return handle.last.losses


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: itself, its ``logits``, its ``logits_per_image``, or those of a mapping.

    Raises:
        UnsupportedCallError: it has none of these.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "logits_per_image"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise UnsupportedCallError(
        f"expected logits in the model's output, got {type(output).__name__}; give distill(..., read=...) a function "
        "that takes them out"
    )


def _task_loss(output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise UnsupportedCallError(
            "the output has no loss of the task; give the call task=lambda output: ..., put 'labels' into the inputs "
            "of a model that takes them, or set task=0"
        )
    return loss
