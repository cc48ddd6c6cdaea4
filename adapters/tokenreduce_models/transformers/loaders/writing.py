"""Language models with images, which write their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenreduce.errors import OptionError
from tokenreduce.tasks import Record
from tokenreduce.tasks import task_types as kinds
from tokenreduce.tasks.batches import samples

from .inputs import Pictures
from .reading import model_of, processor_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenreduce import Task

LONGEST = 32
"""Tokens of an answer at most; benchmarks of short answers ask for no more."""
PLAIN = "USER: {image}\n{text} ASSISTANT:"
"""The prompt where a checkpoint brings no chat template: LLaVA-1.5's."""


def task(name: str, kind: str, records: Sequence[Record]) -> Task:
    """The model with its processor and chat template; it writes greedily."""
    model, processor = model_of(name, kind), processor_of(name)
    prompts = Prompts(processor)
    scale = Pictures(processor.image_processor).scale
    source = Writing(name, model, records, prompts, scale)
    return kinds.written(source, Writer(processor))


class Writing(kinds.Source):
    """Pixels may stand in patches; a person is shown the picture then as the first one given."""

    def samples(self, batch: Any) -> list[Any]:
        pixels = batch.inputs[self.pixels]
        if pixels.ndim == 4:
            return super().samples(batch)
        model: Any = self.model
        grids, size = batch.inputs["image_grid_thw"].tolist(), model.config.vision_config
        return samples(unpatch(pixels, grids, size), batch.targets, self.scale)


class Prompts:
    """Pictures and questions as inputs: the checkpoint's chat template, one picture each.

    Args:
        processor: of the checkpoint.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
        """What the model is given, padded on the left.

        Raises:
            OptionError: the processor does not take them.
        """
        prompts = [self.prompt(text) for text in texts]
        try:
            made = self.processor(
                images=[[image.convert("RGB")] for image in images], text=prompts, padding=True, return_tensors="pt"
            )
        except Exception as error:  # processors raise what they like
            raise OptionError(
                f"the processor of this checkpoint cannot take these pictures and texts ({error}); give other pictures"
            ) from error
        return {key: side for key, side in made.items() if isinstance(side, Tensor)}

    def prompt(self, text: str) -> str:
        """A question with its picture, as the model was trained to be asked."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": text}]
            made: str = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return made
        return PLAIN.format(image=getattr(self.processor, "image_token", "<image>"), text=text)


class Writer:
    """Asks a model: the text that it writes for each sample."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, model: nn.Module, inputs: Any) -> list[str]:
        """Greedy, at most :data:`LONGEST` tokens each."""
        assert isinstance(inputs, Mapping)
        asked: Any = model
        with torch.no_grad():
            out = asked.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
        new = out[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


def unpatch(patches: Tensor, grids: Sequence[Sequence[int]], config: Any) -> Tensor:
    """Qwen's patches (P, 3 * t * p * p), cells of ``spatial_merge_size`` side by side, as pictures (B, 3, H, W).

    Raises:
        OptionError: the pictures of the batch differ in size.
    """
    if len({tuple(grid) for grid in grids}) > 1:
        raise OptionError("the pictures of this batch differ in size and cannot be shown together; use a batch of one")
    time, rows, columns = grids[0]
    p, m, t = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    made = patches.view(len(grids), time, rows // m, columns // m, m, m, 3, t, p, p)[:, 0, ..., 0, :, :]
    return made.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(len(grids), 3, rows * p, columns * p)
