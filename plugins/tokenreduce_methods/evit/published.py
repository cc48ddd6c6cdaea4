"""What the authors report of DeiT-S, trained with each keep rate; the dense model's score is not stated with it."""

from __future__ import annotations

from functools import partial
from typing import Any

PAPER = "Not All Patches Are What You Need: Expediting Vision Transformers via Token Reorganizations, ICLR 2022"


def _deit_s(keep: float, fused: float, dropped: float) -> dict[str, Any]:
    return {
        "paper": PAPER,
        "table": "results of the published models, fused and not",
        "model": f"DeiT-S trained with EViT at keep rate {keep}",
        "classes": ["VisionTransformer", "DeiTForImageClassification", "ViTForImageClassification"],
        "data": "ImageNet-1k validation",
        "score": "top-1 accuracy in percent",
        "settings": [
            {"reducer": "evit", "options": {"keep": keep}, "published": fused, "label": f"evit keep={keep}"},
            {
                "reducer": "evit",
                "options": {"keep": keep, "fuse": False},
                "published": dropped,
                "label": f"evit keep={keep}, not fused",
            },
        ],
        "depth": 12,
        "image": 224,
        "remarks": [
            "fused and not fused are two checkpoints of the authors; compare the row that yours was trained for"
        ],
    }


keep_0_9 = partial(_deit_s, 0.9, 79.8, 79.9)
keep_0_8 = partial(_deit_s, 0.8, 79.8, 79.7)
keep_0_7 = partial(_deit_s, 0.7, 79.5, 79.4)
keep_0_6 = partial(_deit_s, 0.6, 78.9, 79.1)
keep_0_5 = partial(_deit_s, 0.5, 78.5, 78.4)
