"""tokenreduce: one registry of token-reduction methods for transformers that look at images.

import tokenreduce
handle = tokenreduce.attach(model, "pumer")   # fewer tokens inside, same model outside
print(handle)
handle.detach()                               # the model as it was, bit for bit
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    AlreadyAttachedError,
    LayerError,
    NoForwardError,
    OptionError,
    PluginError,
    TokenReduceError,
    UnfitReducerError,
    UnknownNameError,
    UnknownOptionError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from .hookspecs import INTERFACE, hookimpl
from .registry import Registry, default_registry
from .spec import AdapterSpec, LoaderSpec, PresetSpec, ReducerSpec, TaskSpec

if TYPE_CHECKING:
    from .adapter import Adapter, BlockView, Example, Projected, Role, Stack
    from .attaching import attach, attachment
    from .chaining import chain
    from .gate import Gate
    from .handle import Attachment
    from .lab.loader import Loader, Record
    from .lab.result import Result
    from .lab.runner import ablate
    from .lab.task import Batch, Sample, Task
    from .measure.macs import count_macs
    from .parts import make
    from .reducer import Reducer
    from .reduction import Reduction
    from .saving import load
    from .streams import Signals, Site, Stream, Streams
    from .tokens import Tokens
    from .tune.distillation import distill
    from .tune.finetuning import finetune
    from .tune.recipe import Recipe
    from .tune.teaching import Distillation
    from .warmup import Warmup

__version__ = "0.1.0"

_LAZY = {  # imported on first use: these need torch
    "Adapter": "adapter",
    "Attachment": "handle",
    "Batch": "lab.task",
    "BlockView": "adapter",
    "Distillation": "tune.teaching",
    "Example": "adapter",
    "Gate": "gate",
    "Loader": "lab.loader",
    "Projected": "adapter",
    "Recipe": "tune.recipe",
    "Record": "lab.loader",
    "Reducer": "reducer",
    "Reduction": "reduction",
    "Result": "lab.result",
    "Role": "adapter",
    "Sample": "lab.task",
    "Signals": "streams",
    "Site": "streams",
    "Stack": "adapter",
    "Stream": "streams",
    "Streams": "streams",
    "Task": "lab.task",
    "Tokens": "tokens",
    "Warmup": "warmup",
    "ablate": "lab.runner",
    "attach": "attaching",
    "attachment": "attaching",
    "chain": "chaining",
    "count_macs": "measure.macs",
    "distill": "tune.distillation",
    "finetune": "tune.finetuning",
    "load": "saving",
    "make": "parts",
}

__all__ = [
    "INTERFACE",
    "Adapter",
    "AdapterSpec",
    "AlreadyAttachedError",
    "Attachment",
    "Batch",
    "BlockView",
    "Distillation",
    "Example",
    "Gate",
    "LayerError",
    "Loader",
    "LoaderSpec",
    "NoForwardError",
    "OptionError",
    "PluginError",
    "PresetSpec",
    "Projected",
    "Recipe",
    "Record",
    "Reducer",
    "ReducerSpec",
    "Reduction",
    "Registry",
    "Result",
    "Role",
    "Sample",
    "Signals",
    "Site",
    "Stack",
    "Stream",
    "Streams",
    "Task",
    "TaskSpec",
    "TokenReduceError",
    "Tokens",
    "UnfitReducerError",
    "UnknownNameError",
    "UnknownOptionError",
    "UnsupportedCallError",
    "UnsupportedModelError",
    "Warmup",
    "ablate",
    "attach",
    "attachment",
    "chain",
    "count_macs",
    "default_registry",
    "distill",
    "finetune",
    "hookimpl",
    "load",
    "make",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
