"""Train the embedded METER: ``python -m tokenreduce_digits.train_meter --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. Beside the answer, heads on the patches learn which digit and which colour each patch shows (end of
the vision tower) and whether the question is about it (after the fourth level); they speed up learning and
are not part of the saved model. For the first part of the steps (``--near``) the model is shown the patches of
all digits and only some of the background, which is faster.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .evaluation import accuracy_by_kind
from .meter_model import VISION_WIDTH, WIDTH, build
from .patches import PatchHeads, gather, patch_targets
from .scenes import Scene, SceneFactory, collate, patch_labels
from .training import ScriptRecipe, options, run

ASKED_LEVEL = 3
SHOWN = 60  # patches shown in the first part; five digits take 45


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    near = "share of the steps that see only some of the background"
    return options(__doc__, scenes=160_000, lr=7e-4, near=near)


def recipe(args: argparse.Namespace) -> ScriptRecipe:
    """The model, with hooks that hide patches and record tokens, and its losses."""
    model: Any = build().to(args.device).train()
    heads = PatchHeads(VISION_WIDTH, WIDTH, norm=False).to(args.device)
    model.set_attn_implementation("eager")  # trains faster than fused attention in bf16 on a CPU
    seen: dict[str, Tensor] = {}
    model.vit_model.register_forward_hook(lambda module, inputs, out: seen.update(vision=out))
    model.cross_modal_image_layers[ASKED_LEVEL].register_forward_hook(
        lambda module, inputs, out: seen.update(fused=out[0])
    )
    model.vit_model.visual.patch_dropout.register_forward_hook(
        lambda module, inputs, out: gather(out, seen["shown"]) if "shown" in seen else None
    )

    def losses_of(scenes: list[Scene], step: int, near: bool) -> Tensor:
        if near:
            seen["shown"] = digits_first(scenes).to(args.device)
        values = losses(model, heads, seen, scenes, args.device)
        seen.clear()
        return values

    return ScriptRecipe(
        model,
        heads,
        "meter.safetensors",
        SceneFactory("train", args.seed),
        losses_of,
        ("answer", "patches"),
        lambda samples: accuracy_by_kind(model, samples=samples),
        half=True,
    )


def digits_first(scenes: list[Scene]) -> Tensor:
    """(S, SHOWN) patches to look at: those of the digits, and background at random."""
    digit, _ = patch_labels(scenes)
    return ((digit < 10) + torch.rand(digit.shape)).topk(SHOWN, dim=1).indices


def losses(model: Any, heads: PatchHeads, seen: dict[str, Tensor], scenes: list[Scene], device: torch.device) -> Tensor:
    """(2,): answer loss and patch loss of one batch.

    Args:
        seen: ``"shown"`` (S, K) are the patches to look at, all without it; the hooks add their tokens.
    """
    batch = {name: value.to(device) for name, value in collate(scenes).items()}
    digit, colour, asked = patch_targets(scenes, device)
    if "shown" in seen:
        digit, colour, asked = (label.gather(1, seen["shown"]) for label in (digit, colour, asked))
    logits = model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"]).logits
    extra = heads(seen["vision"][:, 1:], seen["fused"][:, 1:], digit, colour, asked)
    return torch.stack([F.cross_entropy(logits.float(), batch["answer"]), extra])


if __name__ == "__main__":
    run(parser(), recipe)
