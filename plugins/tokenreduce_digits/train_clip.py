"""Train the embedded CLIP: ``python -m tokenreduce_digits.train_clip --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. The loss is the cross-entropy over all captions. Beside it, heads on the patches learn which part of
the digit each patch is (layer 2), which digit (or fragment, or ground) and which colour it shows (layer 4);
they are not part of the saved model. For the first ``--near`` of the steps the image tower is given a window
of 6 x 6 patches around the digit, which is three times as fast; then all patches.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .clip_model import ZeroShot, build
from .clip_task import accuracy
from .clutter import GROUND, NO_PART, Cluttered, ClutterFactory, patch_labels, pixel_values, targets, windows
from .training import adamw, rate, restore, save
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--aux", type=float, default=1.0)
    parser.add_argument("--near", type=float, default=0.7, help="share of the steps that see a window alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--final-samples", type=int, default=4000, help="held-out scenes judged at the end")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args)


def train(args: argparse.Namespace) -> None:
    """Run from the last checkpoint, or from the start, to the end."""
    torch.manual_seed(args.seed)
    model = build().train()
    model.clip.set_attn_implementation("eager")
    heads = PatchHeads(model.clip.vision_embed_dim)
    params = [*model.parameters(), *heads.parameters()]
    optimizer = adamw(params, args.lr)
    start, steps = restore(args.out, model.clip, heads, optimizer), args.scenes // args.batch
    if start:
        print(f"continuing at step {start} of {steps}", flush=True)
    factory, done, begun = ClutterFactory("train", args.seed), 0, time.time()
    mean: Tensor | None = None
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, steps)
        scenes = [factory(step * args.batch + i) for i in range(args.batch)]
        seen = windows(scenes, WINDOW, step) if step < args.near * steps else None
        values = losses(model, heads, scenes, seen, args.bf16)
        (values[0] + args.aux * values[1:].sum()).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += args.batch
        mean = values.detach() if mean is None else 0.98 * mean + 0.02 * values.detach()
        if (step + 1) % 50 == 0:
            pace = done / (time.time() - begun)
            left = (steps - step - 1) * args.batch / pace / 60
            print(
                f"step {step + 1}/{steps} caption, part, digit, colour: {' '.join(f'{v:.3f}' for v in mean)} "
                f"{pace:.0f} scenes/s {left:.0f} min left",
                flush=True,
            )
        if (step + 1) % args.save_every == 0 or step + 1 == steps:
            save(args.out, "clip.safetensors", model.clip, heads, optimizer, step + 1)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            score = accuracy(model, samples=500 if step + 1 < steps else args.final_samples)
            print(f"held-out after step {step + 1}: " + json.dumps(score), flush=True)


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
