"""A schedule that lets the reduction begin gently in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.option_checks import is_number
from ..errors import OptionError

if TYPE_CHECKING:
    from ..attachments.handle import Attachment


def warmup(step: float, start: float, length: float, shape: str = "cosine") -> float:
    """How much of the configured removal is in force at a step of training: 0 until ``start``, then rising to 1.

    Source: the shape ``"cosine"`` is the keep-rate schedule of Liang et al., EViT, ICLR 2022, arXiv 2202.07800: a
    method with the option ``keep`` keeps ``1 - (1 - keep) * factor``.

    Args:
        step: steps, or epochs, so far.
        start: when it begins.
        length: how long it rises; 0 for all at once.
        shape: ``"cosine"`` (slow at both ends) or ``"linear"``.

    Raises:
        OptionError: a negative or infinite number, or another shape.
    """
    for name, value in (("step", step), ("start", start), ("length", length)):
        if not is_number(value) or not math.isfinite(value) or value < 0:
            raise OptionError(f"{name} must be a non-negative number, got {value!r}")
    if shape not in ("cosine", "linear"):
        raise OptionError(f"shape must be 'cosine' or 'linear', got {shape!r}")
    if step >= start + length:
        return 1.0
    if step <= start:
        return 0.0
    done = (step - start) / length
    return done if shape == "linear" else (1 - math.cos(math.pi * done)) / 2


class Warmup:
    """Raises the share of the configured removal from 0 to 1 while a model is trained (see ``handle.scale``).

    Used like a learning-rate schedule: made before the first step, ``step()`` after each one, and part of a
    checkpoint through ``state_dict()``. Token counts change with it, so a compiled model is compiled again at each
    change: there, call ``step()`` once an epoch. Shapes and values are those of
    :func:`tokenreduce.train.warmup.warmup`.

    Args:
        handle: the attachment.
        start: steps before anything is removed.
        length: steps from there until all that is configured is; 0 for all at once.
        shape: ``"cosine"`` or ``"linear"``.
        steps_per_epoch: calls of ``step()`` per unit of ``start`` and ``length``: with it they count epochs.
        stack: which one; all of them if None.

    Raises:
        OptionError: a number or shape that is not valid.
        UnfitReducerError: a method that has no option to scale.
    """

    def __init__(
        self,
        handle: Attachment,
        *,
        start: float = 0,
        length: float,
        shape: str = "cosine",
        steps_per_epoch: int = 1,
        stack: str | None = None,
    ) -> None:
        if not isinstance(steps_per_epoch, int) or isinstance(steps_per_epoch, bool) or steps_per_epoch < 1:
            raise OptionError(f"steps_per_epoch must be a positive integer, got {steps_per_epoch!r}")
        self.handle, self.start, self.length, self.shape = handle, start, length, shape
        self.steps_per_epoch, self.stack = steps_per_epoch, stack
        self.steps = 0
        self._apply()

    @property
    def factor(self) -> float:
        """The share in force now, 0 to 1."""
        return warmup(self.steps / self.steps_per_epoch, self.start, self.length, self.shape)

    def step(self) -> float:
        """One step on; the share that is in force from here."""
        self.steps += 1
        return self._apply()

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on from here: JSON-able."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a schedule of the same arguments stood.

        Raises:
            OptionError: not what :meth:`state_dict` gave.
        """
        steps = state.get("steps")
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise OptionError(f"the state of a Warmup is {{'steps': count}}, got {dict(state)!r}")
        self.steps = steps
        self._apply()

    def _apply(self) -> float:
        factor = self.factor
        self.handle.scale(factor, self.stack)
        return factor
