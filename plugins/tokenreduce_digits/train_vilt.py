"""Train the embedded ViLT: ``python -m tokenreduce_digits.train_vilt --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. The learning rate rises, stays, and falls over the last fifth of ``--scenes``. Beside the answer,
heads on the patches learn which digit and which colour each patch shows (middle layer) and whether the
question is about it (layer 9); they speed up learning and are not part of the saved model. ``--init``
starts from given weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .evaluate import accuracy_by_kind
from .model import build, load
from .scenes import GRID, SceneFactory, asked_patches, collate, patch_labels
from .training import Recipe, options, train
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
    parser = options(__doc__, scenes=320_000, lr=7e-4)
    parser.add_argument("--init", type=Path, help="weights to start from (safetensors)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = (build() if args.init is None else load(args.init)).train()
    heads = PatchHeads(model.config.hidden_size)
    recipe = Recipe(
        model,
        heads,
        "vilt.safetensors",
        SceneFactory("train", args.seed),
        lambda scenes, first: losses(model, heads, scenes, args.bf16),
        ("answer", "patches"),
        lambda samples: accuracy_by_kind(model, samples=samples),
    )
    train(args, recipe)


def losses(model: nn.Module, heads: PatchHeads, scenes: list, bf16: bool) -> Tensor:
    """(2,): answer loss and patch loss of one batch."""
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
        return torch.stack([F.cross_entropy(output.logits.float(), batch["answer"]), extra])


if __name__ == "__main__":
    main()
