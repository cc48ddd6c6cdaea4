"""METER, built from parts that exist: CLIP's vision tower, RoBERTa, and co-attention layers.

Modules have the names of the published code, so that its checkpoints fit.

Axes: B batch, T text tokens, N image tokens (class token first), C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, RobertaModel
from transformers.utils import ModelOutput

from tokenreduce.errors import UnsupportedCallError
from tokenreduce_models.transformers.bert import additive, token_type

from .checkpoint import check_names, fit, read_config, read_weights
from .config import MeterConfig
from .layers import CoAttentionLayer, Pooler, VisionTower

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class MeterOutput(ModelOutput):
    """What :class:`MeterModel` returns.

    Attributes:
        text_features: (B, T, C) after the last level.
        image_features: (B, N, C) after the last level.
        pooler_output: (B, 2C), the pooled first token of the text, then of the image.
    """

    text_features: Tensor | None = None
    image_features: Tensor | None = None
    pooler_output: Tensor | None = None


class MeterPreTrainedModel(PreTrainedModel):
    """What all METER models share: configuration, loading, initial weights."""

    config: MeterConfig
    config_class = MeterConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CoAttentionLayer", "RobertaLayer", "ResidualAttentionBlock"]


class MeterEncoder(MeterPreTrainedModel):
    """What the bare model and every head have in common: both towers, all levels, both poolers.

    Source: Dou et al., CVPR 2022, arXiv 2111.02387; published code, model ``METERTransformerSS``.
    """

    def __init__(self, config: MeterConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.cross_modal_text_transform = nn.Linear(config.text_config.hidden_size, width)
        self.cross_modal_image_transform = nn.Linear(config.vision_hidden_size, width)
        self.token_type_embeddings = nn.Embedding(config.token_types, width)
        self.vit_model = VisionTower(config)
        self.text_transformer = RobertaModel(config.text_config, add_pooling_layer=False)
        levels = range(config.num_top_layer)
        self.cross_modal_image_layers = nn.ModuleList([CoAttentionLayer(config) for _ in levels])
        self.cross_modal_text_layers = nn.ModuleList([CoAttentionLayer(config) for _ in levels])
        self.cross_modal_image_pooler = Pooler(width)
        self.cross_modal_text_pooler = Pooler(width)
        self.add_head(config)
        self.post_init()

    head = ""  # name of the head's module, that of the published code
    token_types = 2  # text and one image

    def add_head(self, config: MeterConfig) -> None:
        """Make the head's modules."""

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, image_size: int | None = None, strict: bool = True, **config: Any
    ) -> Self:
        """A model with the weights of a published checkpoint, in evaluation mode.

        Args:
            path: ``.ckpt``, ``.pt`` or ``.safetensors`` file with the names of the published code. It is loaded as
                weights only; nothing in it is run.
            image_size: pixels per side; position embeddings are interpolated where the file is for another size.
                None for the file's own.
            strict: refuse a file with missing or surplus weights; False warns, and starts missing ones at random.
            **config: options of :class:`MeterConfig` that shapes do not tell: ``level_order="sequential"`` for
                checkpoints of PuMer's authors, heads that are not 64 wide.

        Raises:
            FileNotFoundError, UnsupportedModelError: no such file, no METER, or names that do not fit.
            OptionError: the image size is not a multiple of the patch size.
        """
        weights = read_weights(path)
        given = {**config, **({} if image_size is None else {"image_size": image_size})}
        head = [name for name in weights if name.startswith(f"{cls.head}.") and name.endswith(".weight")]
        if cls.head and head and "num_labels" not in given:
            given["num_labels"] = len(weights[sorted(head)[-1]])
        made = MeterConfig(**{"token_types": cls.token_types, **read_config(weights, **given)})
        model = cls(made)
        weights = fit(weights, made, cls.head)
        own = model.state_dict()
        check_names(own, weights, strict, path)
        model.load_state_dict({name: value for name, value in weights.items() if name in own}, strict=False)
        model.eval()
        return model

    def encode(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None, image_token_type: int = 1
    ) -> MeterOutput:
        """Both towers, all levels, both poolers."""
        if not 0 <= image_token_type < self.config.token_types:
            raise UnsupportedCallError(
                f"image_token_type must be below config.token_types = {self.config.token_types}, "
                f"got {image_token_type}; set token_types=3 for pairs of images"
            )
        text = self.text_transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        image = self.vit_model(pixel_values)
        text = self.cross_modal_text_transform(text) + token_type(self.token_type_embeddings, 0, text)
        kind = token_type(self.token_type_embeddings, image_token_type, image)
        image = self.cross_modal_image_transform(image) + kind
        text, image = self.co_attend(text, image, attention_mask)
        pooled = torch.cat([self.cross_modal_text_pooler(text), self.cross_modal_image_pooler(image)], dim=-1)
        return MeterOutput(text_features=text, image_features=image, pooler_output=pooled)

    def co_attend(self, text: Tensor, image: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All levels of co-attention: text (B, T, C), image (B, N, C), attention_mask (B, T) with 0 for padding."""
        real = None if attention_mask is None else attention_mask.bool()
        text_mask, image_mask = additive(real, text), additive(None, image)
        for text_layer, image_layer in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            new = text_layer(text, image, attention_mask=text_mask, encoder_attention_mask=image_mask)[0]
            seen = new if self.config.level_order == "sequential" else text
            image = image_layer(image, seen, attention_mask=image_mask, encoder_attention_mask=text_mask)[0]
            text = new
        return text, image

    def pool(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None, image_token_type: int = 1
    ) -> Tensor:
        """The pooled text and image of :meth:`encode`, (B, 2C)."""
        pooled = self.encode(input_ids, pixel_values, attention_mask, image_token_type).pooler_output
        assert pooled is not None
        return pooled


class MeterModel(MeterEncoder):
    """METER without a head."""

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        image_token_type: int = 1,
        return_dict: bool | None = None,
    ) -> MeterOutput | tuple[Tensor, ...]:
        """One pass.

        Args:
            input_ids: (B, T).
            pixel_values: (B, 3, H, W), H = W = ``config.image_size``.
            attention_mask: (B, T), 0 for padding.
            image_token_type: 1, or 2 for the second image of a pair.
        """
        output = self.encode(input_ids, pixel_values, attention_mask, image_token_type)
        return output if _as_dict(self, return_dict) else output.to_tuple()


def _as_dict(model: MeterEncoder, return_dict: bool | None) -> bool:
    return bool(model.config.return_dict if return_dict is None else return_dict)
