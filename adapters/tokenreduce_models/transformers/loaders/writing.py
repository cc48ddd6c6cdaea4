"""Language models with images, which write their answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce.tasks import Record, Sample
from tokenreduce.tasks import task_types as kinds

from .inputs import Pictures
from .packed import PACKED, Packed, split
from .reading import model_of, processor_of
from .views import views

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenreduce import Task

LONGEST = 32
"""Tokens of an answer at most; benchmarks of short answers ask for no more."""
VICUNA = "USER: {image}\n{text} ASSISTANT:"
PLAIN = {
    "LlavaForConditionalGeneration": VICUNA,
    "LlavaNextForConditionalGeneration": VICUNA,
    "VipLlavaForConditionalGeneration": VICUNA,
    "PaliGemmaForConditionalGeneration": "{image}answer en {text}",
}
"""The prompt where a checkpoint brings no chat template, of models that were published without one."""


def task(name: str, kind: str, records: Sequence[Record]) -> Task:
    """The model with its processor and chat template; it writes greedily.

    Raises:
        OptionError: a record has several pictures.
        UnsupportedModelError: the processor has no chat template, and no plain prompt format is known for this model.
    """
    for record in records:
        if record.more:
            raise OptionError(
                f"{kinds.of(record)} has {1 + len(record.more)} pictures, and a question is asked of one here; give it "
                'as "image": "one.jpg"'
            )
    processor = processor_of(name)
    plain = PLAIN.get(kind)
    if plain is None and not getattr(processor, "chat_template", None):
        raise UnsupportedModelError(
            f"the processor of {name!r} has no chat template, so nobody can say how a {kind} is asked; add the "
            "chat_template.jinja of the published checkpoint (processor.chat_template = ..., then save_pretrained)"
        )
    model = model_of(name, kind)
    prompts = Prompts(processor, model, plain or "", kind in PACKED)
    asked = Packed(model) if kind in PACKED else model
    source = Writing(name, asked, records, prompts, Pictures(processor.image_processor).scale)
    return kinds.written(source, Writer(processor))


class Writing(kinds.Source):
    """A source whose samples show the image, put back together from patches or tiles."""

    def samples(self, batch: Any) -> list[Sample]:
        model: Any = self.model
        seen = views(batch.inputs, model.config, self.scale.undo)
        return [
            Sample(image, one.text, one.answer, tuple(tiles))
            for (image, tiles), one in zip(seen, batch.targets, strict=True)
        ]


class Prompts:
    """Pictures and questions as inputs: the checkpoint's chat template, one picture each.

    Args:
        processor: of the checkpoint.
        model: whose forward says which of the inputs it takes.
        plain: the prompt where the processor has no template.
        packed: whether all samples' pixels come in one tensor.
    """

    def __init__(self, processor: Any, model: Any, plain: str = VICUNA, packed: bool = False) -> None:
        self.processor, self.plain, self.packed = processor, plain, packed
        self.names = inspect.signature(model.forward).parameters.keys() - {"labels"}
        self.image = model.config.image_token_id

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> dict[str, Any]:
        """What the model is given, padded on the left.

        Raises:
            OptionError: the processor does not take them.
        """
        prompts = [self.prompt(text) for text in texts]
        bos = getattr(self.processor.tokenizer, "bos_token", None)
        twice = bos is not None and all(prompt.startswith(bos) for prompt in prompts)
        given = {"add_special_tokens": False} if twice else {}
        try:
            made = self.processor(
                images=[[image.convert("RGB")] for image in images],
                text=prompts,
                padding=True,
                return_tensors="pt",
                **given,
            )
        except Exception as error:  # processors raise what they like
            raise OptionError(
                f"the processor of this checkpoint cannot take these pictures and texts ({error}); give other pictures"
            ) from error
        inputs = {key: side for key, side in made.items() if isinstance(side, Tensor) and key in self.names}
        return split(inputs, (inputs["input_ids"] == self.image).sum(dim=1)) if self.packed else inputs

    def prompt(self, text: str) -> str:
        """A question with its picture, as the model was trained to be asked."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": text}]
            made: str = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return made
        return self.plain.format(image=getattr(self.processor, "image_token", "<image>"), text=text)


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
