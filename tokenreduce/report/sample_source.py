"""What is looked at: a held-out sample of a task, or a picture in a file, as inputs and as a person sees it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._torch import Inputs
from ..errors import OptionError, UnsupportedCallError
from ..tasks.batches import Target, open_image
from ..tasks.inputs import image_size
from ..tasks.task import Batch, Sample, Task

if TYPE_CHECKING:
    from PIL.Image import Image


def sample_from_task(task: Task, number: int) -> tuple[Inputs, Sample]:
    """Inputs and what a person sees of one sample of the task's data.

    Raises:
        OptionError: there are not so many. UnsupportedCallError: the task does not show its samples.
    """
    if task.samples is None:
        raise UnsupportedCallError(f"{task.name} does not say what its samples look like; give a picture instead")
    last = None
    for place, batch in enumerate(task.data(number + 1, 1)):
        last = place
        if place == number:
            return batch.inputs, task.samples(batch)[0]
    raise OptionError(
        f"--sample: {task.name} has {0 if last is None else last + 1} samples, counted from 0; got {number}"
    )


def sample_from_file(task: Task, path: Path, text: str) -> tuple[Inputs, Sample]:
    """Inputs and what a person sees of a picture in a file.

    Raises:
        UnsupportedCallError: the task does not take pictures. OptionError: the file is not one.
    """
    if task.prepare is None:
        hint = "use --sample 0 for one of its own samples" if task.samples is not None else "name another --model"
        raise UnsupportedCallError(f"{task.name} does not say how to prepare a picture; {hint}")

    image = open_image(path)
    inputs = task.prepare([image], [text])
    return inputs, dataclasses.replace(sample_of(task, inputs, image, text), text=text, answer="")


def sample_of(task: Task, inputs: Inputs, image: Image, text: str) -> Sample:
    """The picture as the model was given it, or else the file's, brought to that size."""
    for targets in (None, (Target(text),)):  # nobody knows the right answer; tasks say so in either way
        try:
            if task.samples is not None:
                return task.samples(Batch(inputs, targets))[0]
        except Exception:  # somebody's task may need real targets
            continue
    size = image_size(inputs) or (image.height, image.width)
    pixels = np.asarray(image.convert("RGB").resize((size[1], size[0])), dtype=np.float32) / 255
    return Sample(torch.from_numpy(pixels).permute(2, 0, 1), text)
