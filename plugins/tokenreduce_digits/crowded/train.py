"""Train the ViLT of the crowded scenes: ``python -m tokenreduce_digits.crowded.train --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same line.
The learning rate rises, stays, and falls over the last fifth of ``--scenes``. Beside the answer, heads on the patches
learn which digit and which colour each patch shows and whether the question is about it, and the words' attention is
aligned with the patches (``--align``, 0 = not); none of that is part of the saved model.
For the first part of the
steps (``--near``) the model is shown the patches of all digits and only some of the others, which is faster.
``--init`` starts from given weights: those of ``tokenreduce_digits.train_vilt``, say.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..patches import PatchHeads, gather
from ..train_vilt import ASKED, MIDDLE, raster_embeds
from ..training import ScriptRecipe, options, run
from .alignment import alignment
from .evaluation import accuracy_by_kind
from .model import build, start
from .scenes import Crowd, CrowdFactory, collate, patch_labels

SHOWN = 64  # patches shown in the first part; eight digits take 32


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    near = "share of the steps that see only some of the patches"
    parser = options(__doc__, scenes=160_000, lr=5e-4, near=near)
    parser.add_argument("--init", type=Path, help="weights to start from (safetensors)")
    parser.add_argument("--align", type=float, default=1.0, help="weight of the alignment of words and patches")
    return parser


def recipe(args: argparse.Namespace) -> ScriptRecipe:
    """The model, from scratch or from ``--init``, and its losses."""
    model = (build() if args.init is None else start(args.init)).to(args.device).train()
    heads = PatchHeads(model.config.hidden_size, model.config.hidden_size, norm=True).to(args.device)
    return ScriptRecipe(
        model,
        heads,
        "vilt.safetensors",
        CrowdFactory("train", args.seed),
        lambda scenes, step, near: losses(model, heads, scenes, near, args),
        ("answer", "patches", "alignment"),
        lambda samples: accuracy_by_kind(model, samples=samples),
        half=True,
    )


def losses(model: Any, heads: PatchHeads, scenes: list[Crowd], near: bool, args: argparse.Namespace) -> Tensor:
    """(3,): the losses of one batch: answer, patches, alignment."""
    batch = {name: value.to(args.device) for name, value in collate(scenes).items()}
    digit, colour, asked = (labels.to(args.device) for labels in patch_labels(scenes))
    image = raster_embeds(model.vilt, batch["pixel_values"])
    if near:
        shown = ((digit < 10) + torch.rand(digit.shape, device=digit.device)).topk(SHOWN, dim=1).indices
        image = gather(image, shown)
        digit, colour, asked = (labels.gather(1, shown) for labels in (digit, colour, asked))
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        image_embeds=image,
        pixel_mask=torch.ones(image.shape[:2], dtype=torch.long, device=image.device),
        output_hidden_states=True,
        output_attentions=args.align > 0,
    )
    patches, late = (output.hidden_states[layer][:, -digit.shape[1] :] for layer in (MIDDLE, ASKED))
    extra = heads(patches, late, digit, colour, asked)
    aligned = extra.new_zeros(())
    if args.align > 0:
        aligned = args.align * alignment(output.attentions, batch["attention_mask"], digit, asked)
    return torch.stack([F.cross_entropy(output.logits.float(), batch["answer"]), extra, aligned])


if __name__ == "__main__":
    run(parser(), recipe)
