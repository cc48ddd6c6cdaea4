"""How many placeholders an image has in the prompt: as many as the language model will be given tokens of it.

vLLM's own processors lay out the prompt; what they say of each image is shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.multimodal.processing import PromptUpdateDetails

from .checks import plan_for
from .plan import Plan

IMAGE = "image"


def fewer_placeholders(info: Callable[..., Any], processor: Callable[..., Any]) -> tuple[Any, Any]:
    """The factories of a model's processor, whose images have fewer placeholders where its config asks for it."""

    def make_info(ctx: Any) -> Any:
        made = info(ctx)
        if plan_for(ctx.model_config) is not None:
            made.get_supported_mm_limits = Images(made.get_supported_mm_limits)
            if hasattr(made, "_get_num_unpadded_features"):
                made._get_num_unpadded_features = Separators(made._get_num_unpadded_features)
        return made

    def make_processor(made_info: Any, dummy_inputs: Any) -> Any:
        made = processor(made_info, dummy_inputs)
        plan = plan_for(made_info.ctx.model_config)
        if plan is not None:
            made._get_prompt_updates = Shortened(made._get_prompt_updates, made_info, plan)
        return made

    return make_info, make_processor


class Images:
    """Says that images alone are served: videos are not reduced here."""

    def __init__(self, plain: Callable[[], Mapping[str, int | None]]) -> None:
        self.plain = plain

    def __call__(self) -> Mapping[str, int | None]:
        return {name: limit for name, limit in self.plain().items() if name == IMAGE}


class Separators:
    """Stands in for the count of an image's patches and of the separators between rows, and notes the latter.

    Attributes:
        counted: separators by height and width of the picture.
    """

    def __init__(self, plain: Callable[..., tuple[int, int]]) -> None:
        self.plain = plain
        self.counted: dict[tuple[int, int], int] = {}

    def __call__(self, *, original_height: int, original_width: int, **given: Any) -> tuple[int, int]:
        patches, separators = self.plain(original_height=original_height, original_width=original_width, **given)
        self.counted[original_height, original_width] = separators
        return patches, separators

    def of(self, size: Any) -> int:
        """How many separators the image of a picture has, after it has been counted."""
        return self.counted[size.height, size.width]


class Shortened:
    """Stands in for a processor's ``_get_prompt_updates``: the same, with fewer placeholders for each image."""

    def __init__(self, plain: Callable[..., Sequence[Any]], info: Any, plan: Plan) -> None:
        self.plain, self.info, self.plan = plain, info, plan

    def __call__(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> list[Any]:
        updates = self.plain(
            mm_items=mm_items, hf_processor_mm_kwargs=hf_processor_mm_kwargs, out_mm_kwargs=out_mm_kwargs
        )
        return [self._shorter(update, mm_items) if update.modality == IMAGE else update for update in updates]

    def _shorter(self, update: Any, items: Any) -> Any:
        content = update.replacement

        def shorter(index: int) -> PromptUpdateDetails:
            details = content(index) if callable(content) else content
            if not isinstance(details, PromptUpdateDetails):
                details = PromptUpdateDetails.from_seq(list(details))
            separators = self._separators(items, index)
            return with_fewer(details, lambda count: self.plan.left(count - separators) + separators)

        return replace(update, replacement=shorter)

    def _separators(self, items: Any, index: int) -> int:
        counter = getattr(self.info, "_get_num_unpadded_features", None)
        return counter.of(items[IMAGE].get_image_size(index)) if isinstance(counter, Separators) else 0


def with_fewer(details: PromptUpdateDetails, left: Callable[[int], int]) -> PromptUpdateDetails:
    """The content of an image in a prompt, with ``left(count)`` in place of all ``count`` placeholders."""
    full = list(details.full)
    mask = torch.ones(len(full), dtype=torch.bool) if details.is_embed is None else details.is_embed(full)
    places = mask.nonzero()[:, 0].tolist()
    gone = set(places[left(len(places)) :])
    return replace(details, full=[token for place, token in enumerate(full) if place not in gone])
