"""What the training scripts share: options, the learning rate's course, the loop, and checkpoints."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def options(description: str | None, *, scenes: int, lr: float, near: str | None = None) -> argparse.ArgumentParser:
    """The options of every script; ``near`` explains ``--near`` where there is a first part that sees less."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=scenes)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--aux", type=float, default=1.0, help="weight of the losses on patches")
    if near is not None:
        parser.add_argument("--near", type=float, default=0.7, help=near)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--final-samples", type=int, default=4000, help="held-out scenes judged at the end")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    return parser


@dataclass
class Recipe:
    """What one script trains.

    Args:
        model: what is trained and saved, under ``name`` in ``--out``.
        heads: trained beside it, and only kept in the checkpoint.
        scene: makes scene number i.
        losses: (L,) of a list of scenes; the second argument says whether it is the first part of the steps.
            The task's own loss comes first, the others are weighted by ``--aux``.
        labels: names of the losses.
        score: held-out accuracy on so many scenes.
        half: save the weights in half precision (the checkpoint never is).
    """

    model: nn.Module
    heads: nn.Module
    name: str
    scene: Callable[[int], Any]
    losses: Callable[[list[Any], bool], Tensor]
    labels: Sequence[str]
    score: Callable[[int], dict[str, float]]
    half: bool = False


def train(args: argparse.Namespace, recipe: Recipe) -> None:
    """Run from the last checkpoint, or from the start, to the end."""
    args.out.mkdir(parents=True, exist_ok=True)
    params = [*recipe.model.parameters(), *recipe.heads.parameters()]
    optimizer, steps = adamw(params, args.lr), args.scenes // args.batch
    start = restore(args.out, recipe, optimizer)
    if start:
        print(f"continuing at step {start} of {steps}", flush=True)
    begun, mean = time.time(), torch.zeros(len(recipe.labels))
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, steps)
        scenes = [recipe.scene(step * args.batch + i) for i in range(args.batch)]
        values = recipe.losses(scenes, step < getattr(args, "near", 0) * steps)
        (values[0] + args.aux * values[1:].sum()).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = values.detach() if step == start else 0.98 * mean + 0.02 * values.detach()
        if (step + 1) % 50 == 0:
            pace = (step + 1 - start) * args.batch / (time.time() - begun)
            left = (steps - step - 1) * args.batch / pace / 60
            said = " ".join(f"{label} {value:.3f}" for label, value in zip(recipe.labels, mean, strict=True))
            print(f"step {step + 1}/{steps} {said} {pace:.0f} scenes/s {left:.0f} min left", flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == steps:
            save(args.out, recipe, optimizer, step + 1)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            score = recipe.score(500 if step + 1 < steps else args.final_samples)
            print(f"held-out after step {step + 1}: " + json.dumps(score), flush=True)


def rate(step: int, steps: int, warmup: int = 200) -> float:
    """Learning-rate factor: linear rise, constant, linear fall over the last fifth."""
    return min(1.0, (step + 1) / warmup, max(0.01, (steps - step) / (0.2 * steps)))


def adamw(params: Sequence[nn.Parameter], lr: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves vectors."""
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def restore(out: Path, recipe: Recipe, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint in ``out``, if there is one; the number of steps that it has behind it."""
    if not (out / "checkpoint.pt").exists():
        return 0
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    recipe.model.load_state_dict(state["model"])
    recipe.heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save(out: Path, recipe: Recipe, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the checkpoint and the weights, each whole or not at all."""
    model = recipe.model.state_dict()
    state = {"model": model, "heads": recipe.heads.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").replace(out / "checkpoint.pt")
    weights = {key: (value.half() if recipe.half else value).contiguous() for key, value in model.items()}
    save_file(weights, out / "weights.tmp", metadata={"format": "pt", "step": str(step)})
    (out / "weights.tmp").replace(out / recipe.name)
