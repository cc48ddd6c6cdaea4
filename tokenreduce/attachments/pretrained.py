"""A model with its reducer, out of one folder or repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..errors import OptionError, UnsupportedModelError
from ..registry.registry import default_registry
from ..tasks.loading import load_model
from .checkpoint import CONFIG, WEIGHTS, read_document
from .hub import snapshot
from .lifecycle import load

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched of a repository: configurations, weights as safetensors, vocabularies."""


def from_pretrained(
    source: str | Path, *, revision: str | None = None, token: Any = None, trust: bool = False, **options: Any
) -> nn.Module:
    """A model in evaluation mode with its reducer attached, out of a folder or a repository that holds both.

        model.save_pretrained(folder)  # while attached: the reducer beside the weights
        model = tokenreduce.from_pretrained(folder)
        handle = tokenreduce.attachment(model)

    The installed loaders read the model: transformers, METER, timm (``timm.models.save_for_hf``) and open_clip
    (``open_clip.push_to_hf_hub.save_for_hf``), the last two with ``handle.save(folder)`` beside it. Weights are read
    from safetensors alone, and no code that comes with them is run.

    Args:
        source: a folder, or ``"user/repo"`` of the hub.
        revision: commit, branch or tag of a repository.
        token: for a private one, as huggingface_hub takes it.
        trust: as :func:`tokenreduce.load` has it.
        **options: for what reads the model, such as ``device_map="auto"`` and ``dtype`` of transformers.

    Raises:
        OptionError: there is no attachment, no model or no weights in safetensors; or the hub says no.
        UnsupportedModelError: no loader reads the model, or its files are not as they should be.
        PluginError: a library is not installed.

    And what :func:`tokenreduce.load` raises.
    """
    folder = snapshot(source, revision, token, FILES)
    read_document(folder)
    if not [file for file in folder.glob("*.safetensors") if file.name != WEIGHTS]:
        raise OptionError(
            f"there are no weights of a model as .safetensors in {str(source)!r}, only {CONFIG} of a reducer; load the "
            "model by its own library, and tokenreduce.load(model, source) onto it"
        )
    model = load_model(default_registry(), folder, options)
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the loader of {str(source)!r} gave a {type(model).__name__}, not a model")
    load(model, folder, trust=trust)
    return model.eval()
