"""tokenreduce in vLLM: models that read images are served with fewer image tokens, without a fork of vLLM.

    vllm serve MODEL --hf-overrides '{"tokenreduce": {"reducer": "divprune", "keep": 64}}'

vLLM calls :func:`register` in every process that it starts.
"""

from __future__ import annotations


def register() -> None:
    """Put this package's models in place of vLLM's own, and its checks in front of vLLM's. Safe to call again.

    A model whose config has no ``tokenreduce`` runs as vLLM wrote it.
    """
    from vllm.model_executor.models.registry import ModelRegistry

    from .checks import install
    from .families import FAMILIES

    for architecture in FAMILIES:
        if architecture in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(architecture, f"{__name__}.models:{architecture}")
    install()
