"""A task: a model, data to judge it on, and a metric. Axes: B batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._torch import Inputs, call
from ..errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from PIL.Image import Image

NO_GROUP = "(no group)"


@dataclass(frozen=True)
class Tile:
    """A part of a picture that the model was given by itself, or the whole of it made smaller.

    Args:
        image: (3, H, W) floating-point numbers in 0..1.
        row, column: where it is drawn, in a mosaic of all of them.
    """

    image: Tensor
    row: int
    column: int


@dataclass(frozen=True)
class Sample:
    """One sample for the eye.

    Args:
        image: (3, H, W) floating-point numbers in 0..1, all of what the model was given, padding included.
        text: the question, the caption, or nothing.
        answer: the right answer in words, or nothing.
        tiles: where the model was given the picture in several pieces, these, in the order of their tokens.
    """

    image: Tensor
    text: str = ""
    answer: str = ""
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Args:
        inputs: keyword arguments of the model's call, or a tuple of positional ones.
        targets: whatever the metric compares with.
        groups: a label per sample, for a score per group (question types, say); None for a sample without one.
    """

    inputs: Inputs
    targets: Any
    groups: Sequence[str | None] | None = None

    def __len__(self) -> int:
        """The number of samples: the length of the first input that has as many entries as there are targets.

        Where none has, the length of the first tensor, else of the first list.

        Raises:
            OptionError: the inputs hold neither.
        """
        values = list(self.inputs.values() if isinstance(self.inputs, Mapping) else self.inputs)
        tensors = [len(value) for value in values if isinstance(value, Tensor) and value.ndim]
        lengths = tensors + [len(value) for value in values if isinstance(value, (list, tuple))]
        if not lengths:
            told = ", ".join(type(value).__name__ for value in values) or "nothing"
            raise OptionError(f"the inputs of a batch hold a tensor or a list with an entry per sample, got {told}")
        wanted = _length(self.targets)
        return wanted if wanted in lengths else lengths[0]


@dataclass(frozen=True)
class Task:
    """What an ablation needs. A plugin gives one through ``tokenreduce_tasks``, a loader makes one.

    Args:
        name: what the user types after ``--model``.
        model: ready for evaluation.
        data: ``data(samples, batch)`` gives batches that can be gone through again.
        metric: ``metric(output, targets)`` gives the score of each sample, (B,), higher is better.
        settings: options by reducer that suit this model; reducers without an entry run with their defaults. A
            further name with the option ``"reducer"`` is a variant, and a row of its own.
        description: one line.
        prepare: ``prepare(images, texts)`` turns B pictures and as many texts ("" for none) into inputs of the
            model, for ``tokenreduce show``; None where the task cannot.
        samples: ``samples(batch)`` gives what a person sees of each sample of a batch, or None.
        answers: ``answers(output)`` gives the model's answer to each sample in words, or None.
        train: ``train(seed, first, count)`` gives ``count`` training samples from number ``first`` on, of an endless
            sequence that the seed determines; None where the task cannot be trained.
        validation: ``validation(samples, batch)``, as ``data``: others than those of ``data`` and of ``train``, for
            choosing among checkpoints.
        loss: ``loss(output, targets)`` gives the training loss of a batch, a scalar.
        metrics: further metrics by name, which ``ablate --metric NAME`` takes in place of ``metric``.
        ask: ``ask(model, inputs)`` gives the output that metric and answers read: the model's forward, unless it is
            asked otherwise (a model that writes: by ``generate``). Time and multiply-adds are those of the forward.
    """

    name: str
    model: nn.Module
    data: Callable[[int, int], Sequence[Batch]]
    metric: Callable[[Any, Any], Tensor]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    description: str = ""
    prepare: Callable[[Sequence[Image], Sequence[str]], Inputs] | None = None
    samples: Callable[[Batch], Sequence[Sample]] | None = None
    answers: Callable[[Any], Sequence[str]] | None = None
    train: Callable[[int, int, int], Batch] | None = None
    validation: Callable[[int, int], Sequence[Batch]] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    ask: Callable[[nn.Module, Inputs], Any] = call
    metrics: Mapping[str, Callable[[Any, Any], Tensor]] = field(default_factory=dict)

    def with_metric(self, name: str | None) -> Task:
        """The task judged by one of its further metrics; by its own if None.

        Raises:
            UnknownNameError: it has none of this name.
        """
        if name is None:
            return self
        if name not in self.metrics:
            told = f"; it has {', '.join(map(repr, self.metrics))}" if self.metrics else "; it has only its own"
            raise UnknownNameError(f"{self.name!r} has no metric {name!r}{told}; leave --metric out for its own")
        return replace(self, metric=self.metrics[name])


def _length(targets: Any) -> int | None:
    if isinstance(targets, Tensor):
        return len(targets) if targets.ndim else None
    return len(targets) if isinstance(targets, (list, tuple)) else None
