"""A model built from METER's published code, known by its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import RobertaModel
    from typing_extensions import TypeIs


class Published(nn.Module):
    """What the adapter uses of the published ``METERTransformerSS``, for type checkers; it is never instantiated."""

    text_transformer: RobertaModel
    vit_model: Any  # CLIP or Swin, of classes of the published code
    cross_modal_text_transform: nn.Linear
    cross_modal_image_transform: nn.Linear
    token_type_embeddings: nn.Embedding
    cross_modal_text_layers: nn.ModuleList
    cross_modal_image_layers: nn.ModuleList
    cross_modal_text_pooler: nn.Module
    cross_modal_image_pooler: nn.Module
    infer: Callable[[dict[str, Any]], dict[str, Any]]


PARTS = tuple(Published.__annotations__)


def is_original(module: nn.Module) -> TypeIs[Published]:
    """Whether a module has the parts of the published ``METERTransformerSS``, its method ``infer`` among them."""
    return all(hasattr(module, part) for part in PARTS)
