"""Train the embedded ViLT: ``python -m tokenreduce_digits.train_vilt --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. The learning rate rises, stays, and falls over the last fifth of ``--scenes``. Beside the answer,
heads on the patches learn which digit and which colour each patch shows (middle layer) and whether the
question is about it (layer 9); they speed up learning and are not part of the saved model. ``--init``
starts from given weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .evaluate import accuracy_by_kind
from .model import build, load
from .scenes import GRID, KINDS, SceneFactory, asked_patches, collate, patch_labels
from .training import adamw, rate, restore, save
from .words import COLOURS

MIDDLE, ASKED = 6, 9
BACKGROUND_WEIGHT = 0.05
ASKED_WEIGHT = 10.0


class PatchHeads(nn.Module):
    """The auxiliary losses on patches: digit and colour, background weighted down; and what is asked about."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.digit = nn.Linear(width, 11)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.asked = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, patches: Tensor, late: Tensor, digit: Tensor, colour: Tensor, asked: Tensor) -> Tensor:
        """patches, late (S, N, C) of the middle and the later layer; digit, colour, asked (S, N)."""
        patches = self.norm(patches)
        loss = patches.new_zeros(())
        for head, target in ((self.digit, digit), (self.colour, colour)):
            weight = torch.ones(head.out_features)
            weight[-1] = BACKGROUND_WEIGHT
            loss = loss + F.cross_entropy(head(patches).flatten(0, 1).float(), target.flatten(), weight=weight)
        weight = torch.tensor(ASKED_WEIGHT)
        return loss + F.binary_cross_entropy_with_logits(self.asked(late)[..., 0].float(), asked, pos_weight=weight)


def raster_embeds(vilt: nn.Module, pixels: Tensor) -> Tensor:
    """Image embeddings in raster order (S, 1 + GRID * GRID, C); ViLT's own embedder shuffles its patches."""
    parts = vilt.embeddings
    patches = parts.patch_embeddings(pixels).flatten(2).transpose(1, 2)
    return torch.cat([parts.cls_token.expand(len(patches), -1, -1), patches], 1) + parts.position_embeddings


def main() -> None:
    """Parse the options, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights to start from (safetensors)")
    parser.add_argument("--scenes", type=int, default=320_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--aux", type=float, default=1.0)
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
    model = build() if args.init is None else load(args.init)
    model.train()
    heads = PatchHeads(model.config.hidden_size)
    params = [*model.parameters(), *heads.parameters()]
    optimizer = adamw(params, args.lr)
    start, steps = restore(args.out, model, heads, optimizer), args.scenes // args.batch
    if start:
        print(f"continuing at step {start} of {steps}", flush=True)
    factory, seen, begun = SceneFactory("train", args.seed), 0, time.time()
    mean: Tensor | None = None
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, steps)
        scenes = [factory(step * args.batch + i) for i in range(args.batch)]
        values = torch.stack(losses(model, heads, scenes, args.bf16))
        (values[0] + args.aux * values[1]).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += args.batch
        mean = values.detach() if mean is None else 0.98 * mean + 0.02 * values.detach()
        if (step + 1) % 50 == 0:
            pace = seen / (time.time() - begun)
            left = (steps - step - 1) * args.batch / pace / 60
            print(
                f"step {step + 1}/{steps} answer {mean[0]:.3f} patches {mean[1]:.3f} "
                f"{pace:.0f} scenes/s {left:.0f} min left",
                flush=True,
            )
        if (step + 1) % args.save_every == 0 or step + 1 == steps:
            save(args.out, "vilt.safetensors", model, heads, optimizer, step + 1, {"kinds": ",".join(KINDS)})
        if (step + 1) % 500 == 0 or step + 1 == steps:
            score = accuracy_by_kind(model, samples=500 if step + 1 < steps else args.final_samples)
            print(f"held-out after step {step + 1}: " + json.dumps(score), flush=True)


def losses(model: nn.Module, heads: PatchHeads, scenes: list, bf16: bool) -> list[Tensor]:
    """Answer loss and patch loss of one batch."""
    batch = collate(scenes)
    digit, colour = patch_labels(scenes)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            image_embeds=raster_embeds(model.vilt, batch["pixel_values"]),
            pixel_mask=torch.ones(len(scenes), 1 + GRID * GRID, dtype=torch.long),
            output_hidden_states=True,
        )
        patches, late = (output.hidden_states[layer][:, -GRID * GRID :] for layer in (MIDDLE, ASKED))
        extra = heads(patches, late, digit, colour, asked_patches(scenes))
        return [F.cross_entropy(output.logits.float(), batch["answer"]), extra]


if __name__ == "__main__":
    main()
