"""One sample under one reducer, as a :class:`~tokenreduce.lab.result.Picture`. Axes: B batch, H height, W width."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import Inputs
from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach
from ..attachments.resizing import patch_size
from ..errors import OptionError, PluginError, UnsupportedCallError
from ..lab.result import Picture
from ..lab.tuned_weights import load_reducer_weights
from ..tasks.inputs import image_size
from ..tasks.task import Sample, Task
from .mosaic import mosaic
from .patch_map import patch_owners, prompt_owners

LONG_SIDE = 384  # pixels: smaller pictures are enlarged by a whole number to about this


def view_sample(
    task: Task,
    inputs: Inputs,
    sample: Sample,
    row: str,
    reducer: Any,
    options: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
) -> Picture:
    """The model's answer to one sample before and after, and what became of each patch.

    Args:
        task: its model is left as it was.
        inputs: of the model, for this sample alone.
        sample: what a person sees of it.
        row: what the picture is called.
        reducer: as for :func:`tokenreduce.attach`.
        options: of the reducer, ``"layers"`` among them.
        baseline: ``{"reducer": ..., **options}`` to be compared with; None for the model as it is.

    Raises:
        UnsupportedCallError: the model's image tokens are not one for each patch.
        PluginError: Pillow is not installed.
    """
    before = answers(task, inputs, baseline)
    with attach_traced(task, reducer, options or {}) as handle:
        return pictures(task, inputs, [sample], row, handle, before)[0]


def attach_traced(task: Task, reducer: Any, options: Mapping[str, Any], weights: str = "") -> Attachment:
    """The reducer on the task's model, with a trace; a context that detaches at the end.

    Args:
        weights: folder of the reducer's own weights, where it learns.
    """
    given = dict(options)
    layers = given.pop("layers", None)
    given.pop("readout_only", None)  # a trace follows every token to the end
    handle = attach(task.model, given.pop("reducer", reducer), layers=layers, trace=True, **given)
    return load_reducer_weights(handle, weights) if weights else handle


def answers(task: Task, inputs: Inputs, chosen: Mapping[str, Any] | None = None) -> list[str]:
    """The model's answer to each sample in words; "" where the task does not put answers into words.

    Args:
        chosen: ``{"reducer": ..., **options}``; None for the model as it is now.
    """
    if chosen is not None:
        given = dict(chosen)
        layers = given.pop("layers", None)
        with attach(task.model, given.pop("reducer"), layers=layers, **given):
            return answers(task, inputs)
    with torch.inference_mode():
        output = task.ask(task.model, inputs)
    if task.answers is not None:
        return [str(answer) for answer in task.answers(output)]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [""] * len(next(iter(values)))


def pictures(
    task: Task, inputs: Inputs, samples: Sequence[Sample], row: str, handle: Attachment, before: Sequence[str]
) -> list[Picture]:
    """A picture of every sample of a batch under an attachment that keeps a trace.

    Args:
        inputs: of the model, for these samples.
        samples: what a person sees of each.
        row: what the pictures are called.
        handle: attached now, with ``trace=True``.
        before: answers to compare with.
    """
    after = answers(task, inputs)
    patch, size = patch_size(task.model), image_size(inputs)
    language = prompt_owners(handle) is not None
    if not language and (patch is None or size is None):
        raise UnsupportedCallError(
            f"{type(task.model).__name__} has no layer that cuts pictures into patches, or its inputs hold no picture, "
            "so no patch can be named"
        )
    mask = inputs.get("pixel_mask") if isinstance(inputs, Mapping) else None
    made = []
    for place, (sample, old, new) in enumerate(zip(samples, before, after, strict=True)):
        prompt, image, share = prompt_owners(handle, place), sample.image, (1.0, 1.0)
        if prompt is not None and (len(prompt[0]) > 1 or sample.tiles):
            image, grid, owner = mosaic(sample.tiles, *prompt)
        elif prompt is not None or patch is None or size is None:
            assert prompt is not None
            (grid,), owner = prompt  # the processor has fitted the picture to the grid
        else:
            grid, owner = patch_owners(handle, size, patch, place, mask)
            share = grid[0] * patch[0] / size[0], grid[1] * patch[1] / size[1]
        made.append(Picture(row, sample.text, sample.answer, old, new, png(image, share), grid, owner))
    return made


def png(image: Tensor, share: tuple[float, float] = (1.0, 1.0)) -> str:
    """A picture (3, H, W) in 0..1 as PNG in base64; a small one is enlarged, each pixel as it is.

    Args:
        share: of the height and of the width that the patches cover, from the top left; the rest is cut off.

    Raises:
        OptionError: another shape. PluginError: Pillow is not installed.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise OptionError(f"a sample's image is (3, H, W) in 0..1, got {tuple(image.shape)}")
    try:
        from PIL import Image
    except ImportError as error:
        raise PluginError(f"pictures need Pillow ({error}): pip install 'tokenreduce[lab]'") from error
    height, width = (max(1, round(side * part)) for side, part in zip(image.shape[1:], share, strict=True))
    values = image[:, :height, :width].detach().float().nan_to_num().clamp(0, 1).cpu()
    pixels = (values.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy()
    picture = Image.fromarray(pixels)
    times = max(1, round(LONG_SIDE / max(height, width)))
    picture = picture.resize((width * times, height * times), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
