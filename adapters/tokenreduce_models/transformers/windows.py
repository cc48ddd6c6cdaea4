"""Models of transformers that cannot lose tokens, and why."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from tokenreduce_models.grid_bound import POOLING, RELATIVE, WINDOWS, sentence

REASONS: dict[str, str] = {
    "beit": RELATIVE,
    "clap_audio_model": WINDOWS,
    "cvt": POOLING,
    "data2vec-vision": RELATIVE,
    "dinat": WINDOWS,
    "donut-swin": WINDOWS,
    "edgetam_vision_model": WINDOWS,
    "florence_vision": WINDOWS,
    "focalnet": WINDOWS,
    "glpn": POOLING,
    "got_ocr2_vision": WINDOWS,
    "hiera": WINDOWS,
    "levit": POOLING,
    "maskformer-swin": WINDOWS,
    "mobilevit": POOLING,
    "mobilevitv2": POOLING,
    "pvt": POOLING,
    "pvt_v2": POOLING,
    "sam2_hiera_det_model": WINDOWS,
    "sam3_vit_model": WINDOWS,
    "sam_hq_vision_model": WINDOWS,
    "sam_vision_model": WINDOWS,
    "segformer": POOLING,
    "slanext_vision": WINDOWS,
    "swin": WINDOWS,
    "swin2sr": WINDOWS,
    "swinv2": WINDOWS,
    "vitdet": WINDOWS,
}
"""By the ``model_type`` of the configuration."""


def grid_bound(model: nn.Module) -> PreTrainedModel | None:
    """The first part of a model that needs a full grid, or None."""
    parts = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return next((part for part in parts if part.config.model_type in REASONS), None)


def reason(model: nn.Module, part: PreTrainedModel) -> str:
    """What follows the name of the model's class in a refusal."""
    return sentence(model, part, REASONS[part.config.model_type])
