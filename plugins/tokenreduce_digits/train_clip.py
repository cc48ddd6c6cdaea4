"""Train the embedded CLIP: ``python -m tokenreduce_digits.train_clip --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. The loss is the cross-entropy over all captions. Beside it, heads on the patches learn which part of
the digit each patch is (layer 2), which digit (or fragment, or ground) and which colour it shows (layer 4);
they are not part of the saved model. For the first ``--near`` of the steps the image tower is given a window
of 6 x 6 patches around the digit, which is three times as fast; then all patches.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .clip_model import ZeroShot, build
from .clip_task import accuracy
from .clutter import GROUND, NO_PART, Cluttered, ClutterFactory, patch_labels, pixel_values, targets, windows
from .patches import gather, patch_cross_entropy
from .training import ScriptRecipe, options, run
from .words import COLOURS

EARLY, LATER = 2, 4
WINDOW = 6  # patches per side


class ClutterHeads(nn.Module):
    """The auxiliary losses on patches: part of the digit, digit and colour; empty ground weighted down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, NO_PART + 1))
        self.digit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, GROUND + 1))
        self.colour = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(COLOURS) + 1))

    def forward(self, early: Tensor, later: Tensor, digit: Tensor, colour: Tensor, part: Tensor) -> Tensor:
        """early, later (S, N, C) after layers EARLY and LATER; the labels (S, N). A loss for each head, (3,)."""
        pairs = ((self.part(early), part), (self.digit(later), digit), (self.colour(later), colour))
        return torch.stack([patch_cross_entropy(logits, target) for logits, target in pairs])


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    return options(__doc__, scenes=200_000, lr=1e-3, near="share of the steps that see a window alone")


def recipe(args: argparse.Namespace) -> ScriptRecipe:
    """The model and its losses; windows are drawn from the number of the step."""
    model = build().to(args.device).train()
    model.clip.set_attn_implementation("eager")  # trains faster than fused attention in bf16 on a CPU
    heads = ClutterHeads(model.clip.vision_embed_dim).to(args.device)
    return ScriptRecipe(
        model.clip,
        heads,
        "clip.safetensors",
        ClutterFactory("train", args.seed),
        lambda scenes, step, near: losses(model, heads, scenes, windows(scenes, WINDOW, step) if near else None),
        ("caption", "part", "digit", "colour"),
        lambda samples: accuracy(model, samples=samples),
        half=True,
    )


def losses(model: ZeroShot, heads: ClutterHeads, scenes: list[Cluttered], shown: Tensor | None) -> Tensor:
    """Losses of one batch: caption, part, digit, colour. ``shown`` (S, N) are the patches to look at, None: all."""
    device, vision = model.input_ids.device, model.clip.vision_model
    labels = [label.to(device) for label in patch_labels(scenes)]
    tokens = vision.embeddings(pixel_values(scenes).to(device))
    if shown is not None:
        shown = shown.to(device)
        labels = [label.gather(1, shown) for label in labels]
        tokens = gather(tokens, shown)
    after = [vision.pre_layrnorm(tokens)]
    for block in vision.encoder.layers:
        after.append(block(after[-1], None))
    image = model.clip.visual_projection(vision.post_layernorm(after[-1][:, 0]))
    text = model.clip.get_text_features(model.input_ids, model.attention_mask).pooler_output
    logits = model.clip.logit_scale.exp() * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    extra = heads(after[EARLY][:, 1:], after[LATER][:, 1:], *labels)
    return torch.cat([F.cross_entropy(logits.float(), targets(scenes).to(device))[None], extra])


if __name__ == "__main__":
    run(parser(), recipe)
