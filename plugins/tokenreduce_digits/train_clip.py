"""Train the embedded CLIP: ``python -m tokenreduce_digits.train_clip --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. The loss is the cross-entropy over all captions. Beside it, heads on the patches learn which part of
the digit each patch is (layer 2), which digit (or fragment, or ground) and which colour it shows (layer 4);
they are not part of the saved model. For the first ``--near`` of the steps the image tower is given a window
of 6 x 6 patches around the digit, which is three times as fast; then all patches.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .clip_model import ZeroShot, build
from .clip_task import accuracy
from .clutter import GROUND, NO_PART, Cluttered, ClutterFactory, patch_labels, pixel_values, targets, windows
from .training import Recipe, options, train
from .words import COLOURS

EARLY, LATER = 2, 4
WINDOW = 6  # patches per side
GROUND_WEIGHT = 0.05


class PatchHeads(nn.Module):
    """The auxiliary losses on patches: part of the digit, digit and colour; empty ground weighted down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, NO_PART + 1))
        self.digit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, GROUND + 1))
        self.colour = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(COLOURS) + 1))

    def forward(self, early: Tensor, later: Tensor, digit: Tensor, colour: Tensor, part: Tensor) -> Tensor:
        """early, later (S, N, C) after layers EARLY and LATER; the labels (S, N). A loss for each head, (3,)."""
        pairs = ((self.part(early), part), (self.digit(later), digit), (self.colour(later), colour))
        return torch.stack([_cross_entropy(logits, target) for logits, target in pairs])


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    weight = torch.ones(logits.shape[-1])
    weight[-1] = GROUND_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), weight=weight)


def main() -> None:
    """Parse the options, then train."""
    args = options(__doc__, scenes=200_000, lr=1e-3, near="share of the steps that see a window alone").parse_args()
    torch.manual_seed(args.seed)
    model = build().train()
    model.clip.set_attn_implementation("eager")  # trains faster than fused attention in bf16 on a CPU
    heads, step = PatchHeads(model.clip.vision_embed_dim), itertools.count()
    recipe = Recipe(
        model.clip,
        heads,
        "clip.safetensors",
        ClutterFactory("train", args.seed),
        lambda scenes, first: losses(
            model, heads, scenes, windows(scenes, WINDOW, next(step)) if first else None, args.bf16
        ),
        ("caption", "part", "digit", "colour"),
        lambda samples: accuracy(model, samples=samples),
    )
    train(args, recipe)


def losses(model: ZeroShot, heads: PatchHeads, scenes: list[Cluttered], seen: Tensor | None, bf16: bool) -> Tensor:
    """Losses of one batch: caption, part, digit, colour. ``seen`` (S, N) are the patches to look at, None: all."""
    labels = patch_labels(scenes)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        vision = model.clip.vision_model
        tokens = vision.embeddings(pixel_values(scenes))
        if seen is not None:
            labels = tuple(label.gather(1, seen) for label in labels)
            index = torch.cat([torch.zeros_like(seen[:, :1]), seen + 1], 1)
            tokens = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
        after = [vision.pre_layrnorm(tokens)]
        for block in vision.encoder.layers:
            after.append(block(after[-1], None))
        image = model.clip.visual_projection(vision.post_layernorm(after[-1][:, 0]))
        text = model.clip.get_text_features(model.input_ids, model.attention_mask).pooler_output
        logits = model.clip.logit_scale.exp() * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        extra = heads(after[EARLY][:, 1:], after[LATER][:, 1:], *labels)
    return torch.cat([F.cross_entropy(logits.float(), targets(scenes))[None], extra])


if __name__ == "__main__":
    main()
