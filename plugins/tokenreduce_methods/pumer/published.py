"""What the paper reports, where it was confirmed by a second source; SNLI-VE, NLVR2 and Flickr30k are left out."""

from __future__ import annotations

from typing import Any

PAPER = "PuMer: Pruning and Merging Tokens for Efficient Vision Language Models, ACL 2023"
TUNED = (
    "the published models were fine-tuned for the task with PuMer and distillation; give such a checkpoint (see "
    "'tokenreduce finetune') to compare like with like"
)


def _vqav2(model: str, classes: list[str], depth: int, full: float, reduced: float) -> dict[str, Any]:
    return {
        "paper": PAPER,
        "table": "main results",
        "model": model,
        "classes": classes,
        "data": "VQAv2 test-dev",
        "score": "VQA accuracy in percent",
        "full": full,
        "settings": [{"reducer": "pumer", "published": reduced}],
        "depth": depth,
        "image": 384,
        "remarks": [TUNED],
    }


def vilt_vqav2() -> dict[str, Any]:
    """ViLT-base, VQAv2."""
    return _vqav2("ViLT-base fine-tuned on VQAv2", ["ViltForQuestionAnswering"], 12, 69.5, 68.9)


def meter_vqav2() -> dict[str, Any]:
    """METER-base, VQAv2."""
    return _vqav2("METER-base fine-tuned on VQAv2", ["MeterForQuestionAnswering"], 12, 77.5, 76.8)
