"""Refusals when vLLM starts: for every architecture, before weights are read or a process is made."""

from __future__ import annotations

import logging
from typing import Any

from tokenreduce.errors import UnfitReducerError, UnsupportedModelError

from .facts import facts_of
from .families import FAMILIES, reason
from .plan import Plan, plan_of
from .settings import ENTRY, settings_of

logger = logging.getLogger("vllm.tokenreduce")


def plan_for(model_config: Any, parallel: Any = None) -> Plan | None:
    """The plan for a model that vLLM is about to serve; None where nothing is asked for.

    Args:
        model_config: vLLM's ``ModelConfig``.
        parallel: vLLM's ``ParallelConfig``, where it is known.

    Raises:
        as :func:`tokenreduce_vllm.plan.plan_of` has them; UnsupportedModelError: the architecture is not among those
            that are served.
    """
    config = model_config.hf_config
    settings = settings_of(config)
    if settings is None:
        return None
    architecture = str((getattr(config, "architectures", None) or ["?"])[0])
    if architecture not in FAMILIES or getattr(model_config, "model_impl", "auto") == "transformers":
        why = reason(architecture) if architecture not in FAMILIES else "model_impl='transformers' has other classes"
        raise UnsupportedModelError(
            f"{ENTRY}: {architecture} is not served with fewer tokens: {why}. Served: {', '.join(FAMILIES)}; for "
            f"others leave {ENTRY} out of --hf-overrides, or attach a reducer in transformers (tokenreduce.attach)"
        )
    facts = facts_of(config, architecture, FAMILIES[architecture])
    if facts.family.tokens == "patch" and facts.tower not in ("clip_vision_model", "siglip_vision_model"):
        raise UnsupportedModelError(
            f"{ENTRY}: {architecture} with the vision tower {facts.tower!r} has tokens between the rows of an image, "
            f"which this package does not know; leave {ENTRY} out of --hf-overrides"
        )
    multimodal = getattr(model_config, "multimodal_config", None)
    if getattr(multimodal, "enable_mm_embeds", False):
        raise UnfitReducerError(
            f"{ENTRY}: with enable_mm_embeds a request brings features of a picture that were not made here, and their "
            "number of tokens is not known to be reduced; leave --enable-mm-embeds out"
        )
    split = int(getattr(parallel, "tensor_parallel_size", 1) or 1) > 1
    if split and getattr(multimodal, "mm_encoder_tp_mode", "weights") == "data":
        split = False
    return plan_of(settings, facts, split_heads=split)


class Checks(dict[str, Any]):
    """vLLM's table of checks by architecture, with :func:`plan_for` in front of each."""

    def get(self, architecture: Any, default: Any = None) -> Any:
        return _check(self, super().get(architecture, default))


def _check(table: Checks, own: Any) -> Any:
    class Check:
        """What vLLM calls: the check of this package, then its own."""

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            plan_for(model_config)
            if own is not None:
                own.verify_and_update_model_config(model_config)

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            plan_for(vllm_config.model_config, vllm_config.parallel_config)
            found = own
            if found is None:  # as vLLM does where its table has no entry
                from vllm.model_executor.models.registry import ModelRegistry

                config = vllm_config.model_config
                found = dict.get(table, ModelRegistry._normalize_arch(config.architecture, config))
            if found is not None:
                found.verify_and_update_config(vllm_config)

    return Check


def install() -> None:
    """Put :class:`Checks` in the place of vLLM's table. Twice is once."""
    try:
        from vllm.model_executor.models import config

        table = config.MODELS_CONFIG_MAP
    except (ImportError, AttributeError):
        logger.warning(
            "this version of vLLM has no table of checks where tokenreduce-vllm looks for it: %r in --hf-overrides is "
            "refused late for models that it does not serve, or ignored by them",
            ENTRY,
        )
        return
    if not isinstance(table, Checks):
        config.MODELS_CONFIG_MAP = Checks(table)
