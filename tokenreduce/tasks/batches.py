"""Batches of records: pictures are opened when their batch is asked for. Axes: B batch, H and W pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from .._torch import Inputs
from ..errors import OptionError, reason_of
from .loader import Record
from .pictures import open_image, read_image, size_of
from .task import NO_GROUP, Batch, Sample

__all__ = ["BatchSubset", "RecordBatches", "Remark", "Scale", "Target", "open_image", "samples"]

Remark = Callable[[Sequence[Record]], Iterable[str]]
Prepare = Callable[[Sequence[Any], Sequence[str]], Inputs]
"""Pictures (a list of them for a record with several) and texts to a model's inputs."""


@dataclass(frozen=True)
class Target:
    """What is asked of a picture and what is right: a :class:`Record` without the picture."""

    text: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The right answer, of several the most frequent one, the first of those; "" if there is none."""
        return max(self.answers, key=self.answers.count, default="")


class RecordBatches(Sequence[Batch]):
    """Records as batches, which can be gone through again; no picture stays in memory.

    Targets of a batch are its :class:`Target`, groups those of the records.

    Args:
        records: all of them; the last batch has what is left.
        batch: records in a batch.
        prepare: ``prepare(images, texts)`` gives the model's inputs.
        remarks: each gives what is to be said of the records, in sentences without a point.

    Raises:
        OptionError: no records, or a batch of none.
    """

    def __init__(self, records: Sequence[Record], batch: int, prepare: Prepare, remarks: Sequence[Remark] = ()) -> None:
        if batch < 1:
            raise OptionError(f"a batch has one record or more, got {batch}")
        if not records:
            raise OptionError("there are no records to go through; give a data file or folder (--data)")
        self.records, self.batch, self.prepare, self.remarks = tuple(records), batch, prepare, tuple(remarks)
        self._done: dict[str, set[Path]] = {}

    def notes(self) -> list[str]:
        """What was done to the pictures that have been opened so far, and what is to be said of the records."""
        pictures = len({path for record in self.records for path in (record.image, *record.more)})
        done = [f"{len(paths)} of {pictures} pictures have {what}" for what, paths in sorted(self._done.items())]
        return [*done, *(sentence for remark in self.remarks for sentence in remark(self.records))]

    def __len__(self) -> int:
        return -(-len(self.records) // self.batch)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return BatchSubset(self, range(len(self))[index])
        first = range(len(self))[index] * self.batch
        records = self.records[first : first + self.batch]
        inputs = self._inputs(records)
        groups = [record.group or NO_GROUP for record in records] if any(r.group for r in self.records) else None
        asked = tuple(Target(record.text, record.answers, record.choices) for record in records)
        return Batch(inputs, asked, groups)

    def _inputs(self, records: Sequence[Record]) -> Inputs:
        """The model's inputs.

        Raises:
            OptionError: they cannot be made; the message names the picture, if it is one that is to blame.
        """
        images = [self._open(record) for record in records]
        try:
            return self.prepare(images, [record.text for record in records])
        except Exception as error:  # a processor may raise anything at a picture that does not suit it
            for image, record in zip(images, records, strict=True):
                self._try_alone(image, record)
            raise error

    def _open(self, record: Record) -> Any:
        """The picture of a record; a list where it has several."""
        images = []
        for path in (record.image, *record.more):
            image, done = read_image(path)
            images.append(image)
            for what in done:
                self._done.setdefault(what, set()).add(path)
        return images if record.more else images[0]

    def _try_alone(self, image: Any, record: Record) -> None:
        try:
            self.prepare([image], [record.text])
        except Exception as error:
            size = size_of(image[0] if isinstance(image, list) else image)
            raise OptionError(
                f"the picture at {record.image} ({size}) cannot be made an input of this model "
                f"({reason_of(error)}); replace the file or take its line out"
            ) from error


class BatchSubset(Sequence[Batch]):
    """Some of the batches, still opened when asked for."""

    def __init__(self, batches: RecordBatches, places: Sequence[int]) -> None:
        self.batches, self.places = batches, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return BatchSubset(self.batches, self.places[index])
        return self.batches[self.places[index]]


@dataclass(frozen=True)
class Scale:
    """How pixels were scaled after they had been brought to 0..1: minus ``mean``, divided by ``std``, per channel."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def undo(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) as the model is given them to 0..1."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels.detach().cpu().float() * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def samples(pixels: Tensor, asked: Sequence[Target], scale: Scale) -> list[Sample]:
    """What a person sees of a batch; pixels (B, 3, H, W) as the model is given them."""
    return [Sample(image, one.text, one.answer) for image, one in zip(scale.undo(pixels), asked, strict=True)]
