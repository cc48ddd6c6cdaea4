"""tokenreduce: one registry of token-reduction methods for transformers that look at images.

import tokenreduce
handle = tokenreduce.attach(model, "pumer")   # fewer tokens inside, same model outside
print(handle)
handle.detach()                               # the model as it was, bit for bit

These names, and those of ``tokenreduce.export``, are for users. Authors of plugins import from
``tokenreduce.methods``, ``.backbones``, ``.tasks``, ``.registry``, ``.ops``, ``.errors``, ``.train`` and ``.testing``;
the other packages are private.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors as errors
from . import registry as registry
from ._version import __version__ as __version__
from .errors import TokenReduceError

if TYPE_CHECKING:
    from .attachments.handle import Attachment
    from .attachments.lifecycle import attach, attachment, load
    from .attachments.pretrained import from_pretrained
    from .core.budget import Budget
    from .lab.ablation import ablate
    from .lab.result import Result
    from .measure.macs import count_macs
    from .methods.application import Applied, apply
    from .methods.chain import chain
    from .methods.counting import counts
    from .methods.reducer import Reducer
    from .report.terminal import print_result
    from .tasks.task import Task
    from .train.distillation import distill
    from .train.fine_tuning import finetune
    from .train.recipe import Recipe
    from .train.teacher import Distillation
    from .train.warmup import Warmup

_LAZY = {  # imported on first use: these need torch
    "Applied": "methods.application",
    "Attachment": "attachments.handle",
    "Budget": "core.budget",
    "Distillation": "train.teacher",
    "Recipe": "train.recipe",
    "Reducer": "methods.reducer",
    "Result": "lab.result",
    "Task": "tasks.task",
    "Warmup": "train.warmup",
    "ablate": "lab.ablation",
    "apply": "methods.application",
    "attach": "attachments.lifecycle",
    "attachment": "attachments.lifecycle",
    "chain": "methods.chain",
    "count_macs": "measure.macs",
    "counts": "methods.counting",
    "distill": "train.distillation",
    "finetune": "train.fine_tuning",
    "from_pretrained": "attachments.pretrained",
    "load": "attachments.lifecycle",
    "print_result": "report.terminal",
}
_PACKAGES = ("backbones", "export", "methods", "ops", "tasks", "testing", "train")

__all__ = [
    "Applied",
    "Attachment",
    "Budget",
    "Distillation",
    "Recipe",
    "Reducer",
    "Result",
    "Task",
    "TokenReduceError",
    "Warmup",
    "ablate",
    "apply",
    "attach",
    "attachment",
    "chain",
    "count_macs",
    "counts",
    "distill",
    "finetune",
    "from_pretrained",
    "load",
    "print_result",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_PACKAGES, "errors", "registry"]
