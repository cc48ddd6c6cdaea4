"""vLLM's models with fewer image tokens: each is vLLM's own class with :class:`Reduced` in front of it.

``tokenreduce_vllm.models:LlavaForConditionalGeneration`` is made when it is first asked for, by the table of families.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor
from vllm.multimodal import MULTIMODAL_REGISTRY

from .checks import plan_for
from .families import FAMILIES, Family
from .handover import reduced
from .hearing import Hearing
from .packing import Packings
from .plan import Plan
from .processing import fewer_placeholders
from .tower import ReducedTower


class Reduced:
    """What is put in front of a model of vLLM: its image features, reduced.

    Without ``tokenreduce`` in its config the model is as it was.
    """

    family: ClassVar[Family]
    vision_tower: Any
    multi_modal_projector: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        model: Any = self
        plan = plan_for(vllm_config.model_config, vllm_config.parallel_config)
        model.reduction_plan = plan
        if plan is not None and plan.vision is not None:
            with model._mark_tower_model(vllm_config, "image"):
                model.vision_tower = ReducedTower(vllm_config.model_config.hf_config, plan)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Features of each image of some requests: (K, C) each."""
        plan: Plan | None = self.reduction_plan  # type: ignore[attr-defined]
        plain: Callable[..., Any] = super().embed_multimodal  # type: ignore[misc]
        if plan is None or plan.handover is None:
            return plain(**kwargs)
        with Hearing(self.vision_tower, plan) as heard, Packings() as packings:
            images: Sequence[Tensor] = plain(**kwargs)
        return reduced(plan, images, heard, packings.made, self.multi_modal_projector)


class ReducedTiles(Reduced):
    """The same where the tiles of an image are put together, with separators between rows."""

    config: Any

    def _merge_image_patch_embeddings(self, image_size: Any, patch_embeddings: Any, **given: Any) -> Any:
        merge: Any = super()._merge_image_patch_embeddings  # type: ignore[misc]
        Packings.note(merge.__func__, self.config, image_size, patch_embeddings, given)
        return merge(image_size, patch_embeddings, **given)


def __getattr__(name: str) -> Any:
    if name not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = make_model(FAMILIES[name])
    globals()[name] = made
    return made


def make_model(family: Family) -> type:
    """The class of a family, with its processor."""
    base: Any = getattr(importlib.import_module(f"vllm.model_executor.models.{family.module}"), family.model)
    front = ReducedTiles if family.tokens == "tile" else Reduced
    made = type(base.__name__, (front, base), {"__module__": __name__, "__doc__": base.__doc__, "family": family})
    factories = base._processor_factory
    info, processor = fewer_placeholders(factories.info, factories.processor)
    registered: type = MULTIMODAL_REGISTRY.register_processor(
        processor, info=info, dummy_inputs=factories.dummy_inputs
    )(made)
    return registered
