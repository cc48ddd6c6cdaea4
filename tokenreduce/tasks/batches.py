"""Batches of records: pictures are opened when their batch is asked for. Axes: B batch, H and W pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from .._torch import Inputs
from ..errors import OptionError, PluginError
from .loader import Record
from .task import NO_GROUP, Batch, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

Prepare = Callable[[Sequence["Image"], Sequence[str]], Inputs]


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

    Targets of a batch are its :class:`Asked`, groups those of the records.

    Args:
        records: all of them; the last batch has what is left.
        batch: records in a batch.
        prepare: ``prepare(images, texts)`` gives the model's inputs.

    Raises:
        OptionError: no records, or a batch of none.
    """

    def __init__(self, records: Sequence[Record], batch: int, prepare: Prepare) -> None:
        if batch < 1:
            raise OptionError(f"a batch has one record or more, got {batch}")
        if not records:
            raise OptionError("there are no records to go through; give a data file (--data FILE.jsonl)")
        self.records, self.batch, self.prepare = tuple(records), batch, prepare

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
        inputs = self.prepare([open_image(record.image) for record in records], [record.text for record in records])
        groups = [record.group or NO_GROUP for record in records] if any(r.group for r in self.records) else None
        asked = tuple(Target(record.text, record.answers, record.choices) for record in records)
        return Batch(inputs, asked, groups)


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


def open_image(path: str | Path) -> Image:
    """A picture in RGB, turned as its camera says.

    Raises:
        OptionError: the file cannot be read as a picture.
        PluginError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise PluginError("opening pictures needs pillow: pip install pillow") from error
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OptionError(
            f"expected a picture at {path}, which cannot be read as one ({type(error).__name__}: {error}); "
            "replace the file or take its line out"
        ) from error


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
