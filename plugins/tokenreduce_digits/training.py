"""What both training scripts share: the learning rate's course, the optimizer, and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


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


def restore(out: Path, model: nn.Module, heads: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint in ``out``, if there is one; the number of steps that it has behind it."""
    if not (out / "checkpoint.pt").exists():
        return 0
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save(
    out: Path,
    name: str,
    model: nn.Module,
    heads: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the checkpoint and the weights (``name``), each whole or not at all."""
    state = {"model": model.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step}, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").replace(out / "checkpoint.pt")
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, out / "weights.tmp", metadata={"format": "pt", "step": str(step), **(metadata or {})})
    (out / "weights.tmp").replace(out / name)
