"""The unreduced model teaches the reduced one."""

from __future__ import annotations

import math

from torch import nn

from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach, attachment
from ..errors import OptionError, UnfitReducerError, UnsupportedModelError
from ..registry.registry import default_registry
from .teacher import Distillation, Read


def distill(
    handle: Attachment,
    teacher: nn.Module | None = None,
    *,
    temperature: float = 1.0,
    task: float = 1.0,
    logits: float = 1.0,
    hidden: float = 0.0,
    own: float = 1.0,
    full: float = 0.0,
    read: Read | None = None,
) -> Distillation:
    """Let the unreduced model teach the reduced one. The defaults are PuMer's: task loss + KL, temperature 1.

        distillation = tokenreduce.distill(handle, teacher)
        lesson = distillation(inputs, lambda output: cross_entropy(output.logits, labels))
        lesson.loss.backward()

    Args:
        handle: of the student.
        teacher: a model of the same task, frozen here; None for the student's own weights with reduction off: no
            second copy, but a teacher that changes as the student learns.
        temperature: divides both logits; their term is not multiplied by its square.
        task: weight of the task's own loss.
        logits: weight of KL(teacher || student) over the classes, mean over the batch.
        hidden: weight of the mean squared difference between each of the teacher's final tokens and the student's
            that stands for it, dropped tokens and padding left out; needs ``attach(..., trace=True)`` and a teacher
            of the same family.
        own: weight of what a learnable reducer adds (``handle.last.losses``).
        full: weight of the task's own loss with all tokens, where the same weights teach: the teacher's pass is then
            one in training mode with gradients, so that the model keeps what it knows without reduction.
        read: ``read(output)`` gives the logits; by default the output itself where it is a tensor, its ``logits``,
            or its ``logits_per_image``.

    Raises:
        OptionError: a weight below 0, ``full`` beside a teacher, a temperature that is not above 0, a teacher of which
            the student is a part, or nothing to be learnt from it.

    Source: Cao et al., PuMer, ACL 2023, arXiv 2305.17530.
    """
    weights = {"task": task, "logits": logits, "hidden": hidden, "own": own, "full": full}
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise OptionError(f"{name} is a weight of 0 or more, got {value!r}")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise OptionError(f"temperature must be above 0, got {temperature!r}")
    if not logits and not hidden:
        raise OptionError("logits=0 and hidden=0 leave nothing to learn from a teacher; give one of them a weight")
    if teacher is not None and full:
        raise OptionError("full is a weight of the student's own pass with all tokens; leave teacher out, or full=0")
    if teacher is not None:
        _check_apart(handle.model, teacher)
        teacher.requires_grad_(False).eval()
    plain = None if teacher is None else _identity_attachment(teacher)
    return Distillation(handle, teacher, weights, float(temperature), read, plain)


def _identity_attachment(teacher: nn.Module) -> Attachment | None:
    """An attachment that reduces nothing, not on the model yet; None for one that no adapter takes, or that has one."""
    registry = default_registry()
    baseline = [name for name, e in registry.reducers.items() if getattr(e.spec, "role", "") == "baseline"]
    if not baseline or attachment(teacher) is not None:
        return None
    try:
        handle = attach(teacher, baseline[0])
    except (UnsupportedModelError, UnfitReducerError):
        return None
    handle.detach()
    return handle


def _check_apart(student: nn.Module, teacher: nn.Module) -> None:
    if not isinstance(teacher, nn.Module):
        raise OptionError(f"teacher is a torch.nn.Module or None, got {type(teacher).__name__}")
    own = {id(p) for p in student.parameters()}
    if any(id(p) in own for p in teacher.parameters()):
        raise OptionError(
            "the teacher shares weights with the student, which would be frozen with it; leave teacher out to learn "
            "from the same weights without reduction, or pass copy.deepcopy(model), made before attach"
        )
