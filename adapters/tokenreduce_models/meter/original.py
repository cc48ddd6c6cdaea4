"""A model built from METER's published code: only its method ``infer`` is replaced.

The replacement is proved against the original on a small batch before anything is changed.

Axes: B batch, T text tokens, N image tokens, C width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenreduce.backbones import Pass, device_of, evaluating
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.open_clip.sizes import native_size
from tokenreduce_models.transformers.bert import Plain, additive, token_type

from .cross import CrossStack
from .published import Published

TOLERANCE = 1e-4


class OriginalCross(CrossStack):
    """The co-attention levels of the published code, and ``infer`` around them."""

    entry = "infer"

    def __init__(self, model: Published) -> None:
        if not hasattr(getattr(model.vit_model, "visual", None), "transformer"):
            raise UnsupportedModelError(
                f"the vision tower of {type(model).__name__} is {type(model.vit_model).__name__}, not CLIP's; METER "
                "with a Swin tower is not supported"
            )
        super().__init__(model, sequential=False)
        self.model = model

    def forward(
        self,
        run: Pass,
        batch: dict[str, Any],
        mask_text: bool = False,
        mask_image: bool = False,
        image_token_type_idx: int = 1,
        img: Any = None,
    ) -> dict[str, Any]:
        """What ``infer`` does; text features are shorter than the text where text was merged."""
        model = self.model
        if mask_text or mask_image:
            raise UnsupportedCallError("mask_text and mask_image are for pre-training; handle.detach() first")
        if img is None:
            key = f"image_{image_token_type_idx - 1}"
            img = batch[key if key in batch else "image"][0]
        masks = batch["text_masks"]
        text, image = embed(model, batch["text_ids"], masks, img, image_token_type_idx)
        text, image = self.run_levels(run, text, image, masks)
        pooled = [model.cross_modal_text_pooler(text), model.cross_modal_image_pooler(image)]
        return {
            "text_feats": text,
            "image_feats": image,
            "cls_feats": torch.cat(pooled, dim=-1),
            "text_labels": batch.get("text_labels"),
            "text_ids": batch["text_ids"],
            "text_masks": masks,
        }

    def prove(self) -> None:
        """Compare with the original ``infer`` on two images with a text each, in both orders of a level."""
        model, batch, differences = self.model, probe(self.model), []
        with evaluating(model):
            expected = model.infer(dict(batch))
            for self.sequential in (False, True):
                got = self.forward(Plain(self), batch)
                pairs = [(got[name], expected[name]) for name in ("cls_feats", "image_feats")]
                differences.append(max(float((ours - theirs).abs().max()) for ours, theirs in pairs))
        self.sequential = differences[1] < differences[0]
        if not min(differences) <= TOLERANCE:
            raise UnsupportedModelError(
                f"infer of this {type(model).__name__} does not compute what METER's does (largest difference of the "
                f"pooled features {min(differences):.3g}); this adapter would change its output"
            )


def embed(model: Published, ids: Tensor, masks: Tensor, image: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Both towers up to the first level: text (B, T, C) and image (B, N, C)."""
    text = model.text_transformer.embeddings(input_ids=ids)
    mask = additive(masks.bool(), text)
    for layer in model.text_transformer.encoder.layer:
        out = layer(text, mask)
        text = out if isinstance(out, Tensor) else out[0]
    kinds = model.token_type_embeddings
    text = model.cross_modal_text_transform(text) + token_type(kinds, 0, text)
    image = model.vit_model(image)
    return text, model.cross_modal_image_transform(image) + token_type(kinds, kind, image)


def probe(model: Published) -> dict[str, Any]:
    """Two small images of noise with a text each, the second one padded, as ``infer`` takes them."""
    visual, like = model.vit_model.visual, model.cross_modal_text_transform.weight
    height, width = native_size(visual)
    generator = torch.Generator().manual_seed(0)
    device = device_of(visual)
    image = torch.randn(2, 3, height, width, generator=generator).to(device, like.dtype)
    ids = torch.randint(
        3, model.text_transformer.embeddings.word_embeddings.num_embeddings, (2, 5), generator=generator
    )
    masks = torch.ones(2, 5, dtype=torch.long)
    masks[1, 3:] = 0
    ids[1, 3:] = 1
    ids, masks = ids.to(device), masks.to(device)
    return {"image": [image], "text_ids": ids, "text_masks": masks, "text_labels": ids}
