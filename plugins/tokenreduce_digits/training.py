"""What the training scripts share: their options, what one of them trains, and the way into the training loop."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.errors import OptionError
from tokenreduce.train import Loop, LoopSettings, adamw, progress_text, save_weights, trapezoid


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
    parser.add_argument("--final-samples", type=int, default=4000, help="held-out scenes evaluated at the end")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", type=_device, default="cpu", help="cpu (default), cuda, cuda:1 ...")
    return parser


@dataclass
class ScriptRecipe:
    """What one script trains.

    Args:
        model: what is trained and saved, under ``file`` in ``--out``; on ``--device``, as the heads.
        heads: trained beside it, and only kept in the checkpoint.
        scene: makes scene number i.
        losses: ``losses(scenes, step, near)`` gives (L,) values; ``near`` is true in the first part of the steps.
            The task's own loss comes first, the others are weighted by ``--aux``.
        labels: names of the losses.
        score: held-out accuracy on so many scenes.
        half: save the weights in half precision (the checkpoint never is).
    """

    model: nn.Module
    heads: nn.Module
    file: str
    scene: Callable[[int], Any]
    losses: Callable[[list[Any], int, bool], Tensor]
    labels: Sequence[str]
    score: Callable[[int], dict[str, float]]
    half: bool = False


def run(parser: argparse.ArgumentParser, recipe: Callable[[argparse.Namespace], ScriptRecipe]) -> None:
    """Parse the options, seed what ``recipe`` builds from them, then train."""
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    try:
        train(args, recipe(args))
    except OptionError as error:
        parser.error(str(error))


def train(args: argparse.Namespace, recipe: ScriptRecipe) -> None:
    """Run from the last checkpoint, or from the start, to the end.

    Raises:
        OptionError: an option is out of range, the checkpoint does not fit, or a loss is not finite.
    """
    modules = {"model": recipe.model, "heads": recipe.heads}
    trained = nn.ModuleList(modules.values())
    settings = LoopSettings(
        samples=args.scenes,
        batch=args.batch,
        lr=args.lr,
        weight_decay=0.05,
        max_grad_norm=1.0,
        bf16=args.bf16,
        save_every=args.save_every,
        validate_every=500,
        seed=args.seed,
    )
    batch, steps = settings.batch, settings.steps

    def losses(numbered: tuple[int, list[Any]]) -> tuple[Tensor, dict[str, Tensor]]:
        step, scenes = numbered
        values = recipe.losses(scenes, step, step < getattr(args, "near", 0) * steps)
        return values[0] + args.aux * values[1:].sum(), dict(zip(recipe.labels, values, strict=True))

    def evaluate(step: int) -> dict[str, float]:
        save_weights(recipe.model, args.out, recipe.half, recipe.file)
        score = recipe.score(500 if step < steps else args.final_samples)
        print(f"held-out after step {step}: " + json.dumps(score), flush=True)
        return {}

    loop = Loop(
        modules,
        adamw(trained, settings),
        settings,
        args.out / "checkpoint.pt",
        schedule=lambda step: trapezoid(step, steps),
        batch=lambda step: (step, [recipe.scene(step * batch + i) for i in range(batch)]),
        losses=losses,
        evaluate=evaluate,
        report=lambda line: print(progress_text(line), flush=True),
        clipped=trained.parameters(),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    if loop.resume():
        print(f"continuing at step {loop.progress.step} of {steps}", flush=True)
    loop.run()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(
            f"expected a device of this machine, such as cpu, got {name!r} ({reason})"
        ) from None
    return device
