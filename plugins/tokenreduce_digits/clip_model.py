"""The embedded zero-shot classifier: a real ``CLIPModel``, small, and the captions that it chooses among."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .captions import CONTEXT, END_ID, VOCABULARY, encode_captions
from .model import sines
from .scenes import GRID, PATCH, PIXELS

if TYPE_CHECKING:
    from transformers import CLIPModel
    from transformers.modeling_outputs import ImageClassifierOutput

WEIGHTS = Path(__file__).parent / "clip.safetensors"
WIDTH = 128
TEXT_WIDTH = 64
PROJECTION = 64
QUERY_GAIN = 2.0


class ZeroShot(nn.Module):
    """A CLIP model and the captions of the classes: scores each image against every caption."""

    input_ids: Tensor
    attention_mask: Tensor

    def __init__(self, clip: CLIPModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("input_ids", input_ids, persistent=False)
        self.register_buffer("attention_mask", attention_mask, persistent=False)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """pixel_values (B, 3, P, P) to ``logits`` (B, K)."""
        from transformers.modeling_outputs import ImageClassifierOutput

        output = self.clip(input_ids=self.input_ids, pixel_values=pixel_values, attention_mask=self.attention_mask)
        return ImageClassifierOutput(logits=output.logits_per_image)


def build() -> ZeroShot:
    """The model with random weights, so begun that patches attend to patches near them.

    Position embeddings start as two-dimensional sines, and in the image tower keys start equal to queries.
    """
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=PROJECTION,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_factor=2.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=END_ID,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        projection_dim=PROJECTION,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        initializer_range=0.05,
        initializer_factor=2.0,
    )
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] = 0.6 * sines(GRID, WIDTH)
        for block in model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight *= QUERY_GAIN
            block.self_attn.k_proj.weight.copy_(block.self_attn.q_proj.weight)
    return ZeroShot(model, *encode_captions())


def load(path: Path = WEIGHTS) -> ZeroShot:
    """The trained model, in evaluation mode."""
    from safetensors.torch import load_file

    model = build()
    model.clip.load_state_dict(load_file(path))
    return model.eval()
