"""What the authors report of ToMe without training."""

from __future__ import annotations

from functools import partial
from typing import Any

PAPER = "Token Merging: Your ViT But Faster, ICLR 2023"
CLASSES = ["VisionTransformer", "ViTForImageClassification"]


def _imagenet(model: str, depth: int, image: int, r: int, full: float, reduced: float) -> dict[str, Any]:
    return {
        "paper": PAPER,
        "table": "results of the published models without training",
        "model": model,
        "classes": CLASSES,
        "data": "ImageNet-1k validation",
        "score": "top-1 accuracy in percent",
        "full": full,
        "settings": [{"reducer": "tome", "options": {"r": r}, "published": reduced, "label": f"tome r={r}"}],
        "depth": depth,
        "image": image,
    }


vit_s16 = partial(_imagenet, "ViT-S/16 (AugReg)", 12, 224, 13, 81.41, 79.30)
vit_b16 = partial(_imagenet, "ViT-B/16 (AugReg)", 12, 224, 13, 84.57, 82.60)
vit_l16 = partial(_imagenet, "ViT-L/16 (AugReg)", 24, 224, 7, 85.82, 84.26)
vit_l16_384 = partial(_imagenet, "ViT-L/16 at 384 px (AugReg)", 24, 384, 23, 86.92, 86.14)
swag_b16_384 = partial(_imagenet, "ViT-B/16 at 384 px (SWAG)", 12, 384, 45, 85.30, 84.59)
swag_l16_512 = partial(_imagenet, "ViT-L/16 at 512 px (SWAG)", 24, 512, 40, 88.06, 87.80)
swag_h14_518 = partial(_imagenet, "ViT-H/14 at 518 px (SWAG)", 32, 518, 40, 88.55, 88.25)
