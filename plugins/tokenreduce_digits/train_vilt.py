"""Train the embedded ViLT: ``python -m tokenreduce_digits.train_vilt --out DIR``.

Stopped at any time it continues from the last checkpoint in ``--out`` when started again with the same
line. The learning rate rises, stays, and falls over the last fifth of ``--scenes``. Beside the answer,
heads on the patches learn which digit and which colour each patch shows (middle layer) and whether the
question is about it (layer 9); they speed up learning and are not part of the saved model. ``--init``
starts from given weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .evaluation import accuracy_by_kind
from .model import build, load
from .patches import PatchHeads, patch_targets
from .scenes import GRID, Scene, SceneFactory, collate
from .training import ScriptRecipe, options, run

MIDDLE, ASKED = 6, 9


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    parser = options(__doc__, scenes=320_000, lr=7e-4)
    parser.add_argument("--init", type=Path, help="weights to start from (safetensors)")
    return parser


def recipe(args: argparse.Namespace) -> ScriptRecipe:
    """The model, from scratch or from ``--init``, and its losses."""
    model = (build() if args.init is None else load(args.init)).to(args.device).train()
    heads = PatchHeads(model.config.hidden_size, model.config.hidden_size, norm=True).to(args.device)
    return ScriptRecipe(
        model,
        heads,
        "vilt.safetensors",
        SceneFactory("train", args.seed),
        lambda scenes, step, near: losses(model, heads, scenes, args.device),
        ("answer", "patches"),
        lambda samples: accuracy_by_kind(model, samples=samples),
        half=True,
    )


def losses(model: Any, heads: PatchHeads, scenes: list[Scene], device: torch.device) -> Tensor:
    """(2,): answer loss and patch loss of one batch."""
    batch = {name: value.to(device) for name, value in collate(scenes).items()}
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        image_embeds=raster_embeds(model.vilt, batch["pixel_values"]),
        pixel_mask=torch.ones(len(scenes), 1 + GRID * GRID, dtype=torch.long, device=device),
        output_hidden_states=True,
    )
    patches, late = (output.hidden_states[layer][:, -GRID * GRID :] for layer in (MIDDLE, ASKED))
    extra = heads(patches, late, *patch_targets(scenes, device))
    return torch.stack([F.cross_entropy(output.logits.float(), batch["answer"]), extra])


def raster_embeds(vilt: Any, pixels: Tensor) -> Tensor:
    """Image embeddings in raster order (S, 1 + GRID * GRID, C); ViLT's own embedder shuffles its patches."""
    parts = vilt.embeddings
    patches = parts.patch_embeddings(pixels).flatten(2).transpose(1, 2)
    embeds: Tensor = torch.cat([parts.cls_token.expand(len(patches), -1, -1), patches], 1) + parts.position_embeddings
    return embeds


if __name__ == "__main__":
    run(parser(), recipe)
