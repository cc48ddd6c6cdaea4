"""How a model is trained: the settings of the loop, and of a fine-tuning on it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import OptionError

LEAST = {"samples": 1, "batch": 1, "save_every": 1, "validate_every": 1, "validation_samples": 1, "patience": 0}

CHOICES = {"reduction_shape": ("cosine", "linear")}


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the training loop.

    Args:
        samples: training samples in all; the last incomplete batch is left out.
        batch: samples of a step.
        lr: highest learning rate.
        weight_decay: of matrices; biases and norms have none.
        max_grad_norm: the gradient is clipped to this norm; 0 for no clipping.
        bf16: mixed precision.
        save_every: steps between checkpoints: what a killed run loses at most.
        validate_every: steps between evaluations; there is one after the last step, and a checkpoint after each.
        seed: of samples, draws and new weights.

    Raises:
        OptionError: a value outside its range.
    """

    samples: int = 32_000
    batch: int = 32
    lr: float = 3e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 0.0
    bf16: bool = False
    save_every: int = 100
    validate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kind = type(getattr(type(self), name))
            if name in CHOICES:
                if value not in CHOICES[name]:
                    raise OptionError(f"{name} must be one of {', '.join(map(repr, CHOICES[name]))}, got {value!r}")
                continue
            if kind is bool:
                fine = isinstance(value, bool)
            elif isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
                fine = False
            else:
                fine = math.isfinite(value) and value >= LEAST.get(name, -math.inf if name == "seed" else 0)
            if not fine:
                wanted = "true or false" if kind is bool else f"{'an integer' if kind is int else 'a number'}"
                least = "" if kind is bool or name == "seed" else f" of {LEAST.get(name, 0)} or more"
                raise OptionError(f"{name} must be {wanted}{least}, got {value!r}")
        if self.samples < self.batch:
            raise OptionError(f"samples ({self.samples}) must be a batch ({self.batch}) or more")
        if not self.lr:
            raise OptionError(f"lr must be above 0, got {self.lr!r}")

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.samples // self.batch

    def to_json(self) -> dict[str, Any]:
        """JSON-able; ``Recipe(**document)`` takes it back."""
        return asdict(self)


@dataclass(frozen=True)
class Recipe(LoopSettings):
    """Settings of one fine-tuning. Where PuMer's are known they are the defaults, at a learning rate for small models.

    Args:
        samples, batch, weight_decay, max_grad_norm, bf16, save_every, validate_every, seed: see :class:`LoopSettings`.
        lr: highest learning rate, after a rise over the first ``warmup`` share of the steps and before a linear fall
            to 0 over the others.
        reducer_lr: times as much for the weights of a learnable reducer, which are new.
        warmup: see ``lr``.
        distillation: whether the unreduced model teaches; without, ``task`` and ``own`` alone count.
        temperature, task, logits, hidden, own, full: see :func:`tokenreduce.distill`.
        same_weights: the student's own weights teach with reduction off, instead of a copy made before.
        reduction_warmup: share of the steps over which the reduction rises from nothing to what is configured.
        reduction_shape: how it rises, ``"cosine"`` (slow at both ends) or ``"linear"``.
        last: whether the last weights are kept, and training never stops early; else the best ones are. A model whose
            tokens go little by little is at its best before they go.
        validation_samples: how many an evaluation takes.
        patience: evaluations in a row without a better one after which training stops early; 0 for never.

    Raises:
        OptionError: a value outside its range.

    Source: Cao et al., PuMer, ACL 2023, arXiv 2305.17530 (optimizer, losses, rise of the learning rate).
    """

    reducer_lr: float = 10.0
    warmup: float = 0.1
    distillation: bool = True
    temperature: float = 1.0
    task: float = 1.0
    logits: float = 1.0
    hidden: float = 0.0
    own: float = 1.0
    full: float = 0.0
    same_weights: bool = False
    reduction_warmup: float = 0.0
    reduction_shape: str = "cosine"
    last: bool = False
    validation_samples: int = 500
    patience: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup", "reduction_warmup"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is a share of the steps, 0 to 1, got {getattr(self, name)!r}")
        if not self.temperature:
            raise OptionError(f"temperature must be above 0, got {self.temperature!r}")
        if self.full and not (self.same_weights and self.distillation):
            raise OptionError(
                f"full={self.full!r} is a weight of the task's loss with all tokens, which needs same_weights=True and "
                "distillation=True; or set full=0 (--full-weight 0)"
            )
