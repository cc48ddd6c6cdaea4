"""Train the embedded METER: ``python -m tokenreduce_digits.train_meter --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. Beside the answer, heads on the patches learn which digit and which colour each patch shows (end of
the vision tower) and whether the question is about it (after the fourth level); they speed up learning and
are not part of the saved model. For the first part of the steps (``--near``) the model is shown the patches of
all digits and only some of the background, which is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .evaluate import accuracy_by_kind
from .meter_model import VISION_WIDTH, WIDTH, build
from .scenes import SceneFactory, asked_patches, collate, patch_labels
from .training import Recipe, options, train
from .words import COLOURS

ASKED_LEVEL = 3
SHOWN = 60  # patches shown in the first part; five digits take 45
BACKGROUND_WEIGHT, ASKED_WEIGHT = 0.05, 10.0


class PatchHeads(nn.Module):
    """The auxiliary losses on patches: digit and colour, background weighted down; and what is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.digit = nn.Linear(VISION_WIDTH, 11)
        self.colour = nn.Linear(VISION_WIDTH, len(COLOURS) + 1)
        self.asked = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1))

    def forward(self, vision: Tensor, fused: Tensor, digit: Tensor, colour: Tensor, asked: Tensor) -> Tensor:
        """vision, fused (S, N, C) without class tokens; digit, colour, asked (S, N)."""
        loss = vision.new_zeros(())
        for head, target in ((self.digit, digit), (self.colour, colour)):
            weight = torch.ones(head.out_features)
            weight[-1] = BACKGROUND_WEIGHT
            loss = loss + F.cross_entropy(head(vision).flatten(0, 1).float(), target.flatten(), weight=weight)
        weight = torch.tensor(ASKED_WEIGHT)
        return loss + F.binary_cross_entropy_with_logits(self.asked(fused)[..., 0].float(), asked, pos_weight=weight)


def main() -> None:
    """Parse the options, then train."""
    near = "share of the steps that see only some of the background"
    args = options(__doc__, scenes=160_000, lr=7e-4, near=near).parse_args()
    torch.manual_seed(args.seed)
    model, heads = build().train(), PatchHeads()
    model.set_attn_implementation("eager")  # trains faster than fused attention in bf16 on a CPU
    seen: dict[str, Tensor] = {}
    shown: list[Tensor] = []
    model.vit_model.register_forward_hook(lambda module, inputs, out: seen.update(vision=out))
    model.cross_modal_image_layers[ASKED_LEVEL].register_forward_hook(
        lambda module, inputs, out: seen.update(fused=out[0])
    )
    model.vit_model.visual.patch_dropout.register_forward_hook(
        lambda module, inputs, out: gather(out, shown[0]) if shown else None
    )

    def both(scenes: list, first: bool) -> Tensor:
        shown[:] = [digits_first(scenes)] if first else []
        values = losses(model, heads, seen, shown, scenes, args.bf16)
        shown.clear()
        return values

    recipe = Recipe(
        model,
        heads,
        "meter.safetensors",
        SceneFactory("train", args.seed),
        both,
        ("answer", "patches"),
        lambda samples: accuracy_by_kind(model, samples=samples),
        half=True,
    )
    train(args, recipe)


def digits_first(scenes: list) -> Tensor:
    """(S, SHOWN) patches to look at: those of the digits, and background at random."""
    digit, _ = patch_labels(scenes)
    return ((digit < 10) + torch.rand(digit.shape)).topk(SHOWN, dim=1).indices


def gather(x: Tensor, shown: Tensor) -> Tensor:
    """Tokens (S, 1 + N, C) to those of the class token and the patches shown (S, K): (S, 1 + K, C)."""
    index = torch.cat([torch.zeros_like(shown[:, :1]), shown + 1], dim=1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def losses(
    model: nn.Module, heads: PatchHeads, seen: dict[str, Tensor], shown: list[Tensor], scenes: list, bf16: bool
) -> Tensor:
    """(2,): answer loss and patch loss of one batch; ``seen`` is filled by the hooks."""
    batch = collate(scenes)
    labels = (*patch_labels(scenes), asked_patches(scenes))
    digit, colour, asked = (label.gather(1, shown[0]) for label in labels) if shown else labels
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"]).logits
        extra = heads(seen["vision"][:, 1:], seen["fused"][:, 1:], digit, colour, asked)
        return torch.stack([F.cross_entropy(logits.float(), batch["answer"]), extra])


if __name__ == "__main__":
    main()
