"""Tiny models of each kind, inputs for them, and how accelerate and torchao spread them out."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ..conftest import VILT, VIT, _scramble
from ..language import tinies

BLOCKS = {
    *("Block", "ViltLayer", "CLIPEncoderLayer", "LlamaDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"),
    *("CoAttentionLayer", "RobertaLayer", "ResidualAttentionBlock"),
}


@dataclass
class Case:
    """A model, inputs for it, and reducers with options."""

    model: nn.Module
    inputs: dict[str, Any]
    reducers: dict[str, tuple[Any, dict[str, Any]]]

    def run(self, model: nn.Module, inputs: Any = None) -> Tensor:
        """What the model puts out, the draw of ViLT's patches always the same."""
        torch.manual_seed(5)
        with torch.no_grad():
            output = model(**(inputs or self.inputs))
        if isinstance(output, Tensor):
            return output
        return output.logits if hasattr(output, "logits") else output.image_embeds


def vit() -> Case:
    from timm.models.vision_transformer import VisionTransformer

    reducers = {"tome": ("tome", {"r": 3}), "evit": ("evit", {"keep": 0.6}), "ats": ("ats", {"layers": [1, 2]})}
    return Case(_scramble(VisionTransformer(**VIT)).eval(), {"x": torch.randn(2, 3, 32, 32)}, reducers)


def vilt() -> Case:
    model = _scramble(transformers.ViltForQuestionAnswering(transformers.ViltConfig(**VILT))).eval()
    inputs = {"input_ids": torch.randint(1, 99, (2, 7)), "pixel_values": torch.randn(2, 3, 32, 32)}
    return Case(model, inputs, {"pumer": ("pumer", {})})


def clip() -> Case:
    words = {"vocab_size": 99, "eos_token_id": 98, "bos_token_id": 1, "pad_token_id": 3, "max_position_embeddings": 20}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**sizes, **words}, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    inputs = {"input_ids": torch.randint(4, 98, (2, 7)), "pixel_values": torch.randn(2, 3, 32, 32)}
    guided = ("pumer", {"guide": torch.randn(16)})
    return Case(transformers.CLIPModel(config).eval(), inputs, {"tome": ("tome", {"r": 3}), "guided": guided})


def meter() -> Case:
    from tokenreduce_models import meter
    from tokenreduce_models.meter.examples import example

    made = example(meter.MeterForQuestionAnswering, 0)
    both = ({"vision": {"reducer": "tome", "r": 4}, "cross": "pumer"}, {})
    return Case(made.model.eval(), dict(made.inputs), {"cross": ("pumer", {}), "both": both})


BETWEEN = {
    "handover": ("random", {"keep": 4}),
    "fastv": ("fastv", {"layers": [0], "keep": 0.5}),
    "ahead": ("pyramiddrop", {}),
    "text": ("sparsevlm", {}),
}


def llava() -> Case:
    tiny = tinies.llava()
    tower = {"reducer": "tome", "r": 2}
    own = {
        "signals": ("visionzip", {"keep": 4}),
        "tower": ({"vision": tower}, {}),
        "both": ({"vision": tower, "handover": {"reducer": "random", "keep": 4}}, {}),
    }
    return Case(tiny.model, tiny.inputs(batch=2), {**BETWEEN, **own})


def qwen() -> Case:
    tiny = tinies.qwen2_5_vl()
    return Case(tiny.model, tiny.inputs(batch=2), {**BETWEEN, "signals": ("fopru", {"keep": 4})})


MAKERS = {"vit": vit, "vilt": vilt, "clip": clip, "meter": meter, "llava": llava, "qwen": qwen}
CASES = [(name, reducer) for name, make in {
    "vit": ("tome", "evit", "ats"),
    "vilt": ("pumer",),
    "clip": ("tome", "guided"),
    "meter": ("cross", "both"),
    "llava": (*BETWEEN, "signals", "tower", "both"),
    "qwen": (*BETWEEN, "signals"),
}.items() for reducer in make]  # fmt: skip
"""Every kind of model with each of its reducers."""
FIRST = [("vit", "tome"), ("vilt", "pumer"), ("clip", "guided"), ("meter", "both"), ("llava", "both"), ("qwen", "text")]
"""What the ordinary suite tries; the sweep has all of it."""
SWEEP = pytest.mark.sweep


@functools.cache
def _made(name: str) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAKERS[name]()


def case(name: str) -> Case:
    """A fresh copy of the model of a name, with its inputs."""
    made = _made(name)
    return Case(copy.deepcopy(made.model), made.inputs, made.reducers)


def map_of(model: nn.Module, places: list[str]) -> dict[str, str]:
    """A device map: blocks go to the places in turn, all else to the CPU."""
    blocks = [name for name, module in model.named_modules() if type(module).__name__ in BLOCKS]
    found = {name: places[i % len(places)] for i, name in enumerate(blocks)}
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        if not any(name.startswith(f"{block}.") for block in blocks):
            found[name] = "cpu"
    return found


PRELOADED = ["MultiheadAttention"]
"""torch's attention uses the weights of its output layer without calling it, so accelerate has to load it whole."""


def ways(folder: Any) -> dict[str, Callable[[nn.Module], nn.Module]]:
    """How accelerate spreads a model out."""
    from accelerate import cpu_offload, disk_offload, dispatch_model

    cpu, further = torch.device("cpu"), {"preload_module_classes": PRELOADED}

    def dispatched(places: list[str]) -> Callable[[nn.Module], nn.Module]:
        given = {"main_device": "cpu", "offload_dir": str(folder), "force_hooks": True, **further}
        return lambda model: dispatch_model(model, map_of(model, places), **given)

    return {
        "cpu_offload": lambda model: cpu_offload(model, cpu, **further),
        "disk_offload": lambda model: disk_offload(model, str(folder), cpu, **further),
        "blocks": dispatched(["cpu"]),
        "blocks, some on disk": dispatched(["cpu", "disk"]),
    }


WAYS = ("cpu_offload", "disk_offload", "blocks", "blocks, some on disk")
