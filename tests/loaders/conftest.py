"""Small checkpoints, pictures and data files, written on the spot the way that their libraries write them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tokenreduce
from tokenreduce.tasks.loading import load_task

ANSWERS = ["yes", "no", "red", "two"]
VISION = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {**VISION, "num_hidden_layers": 2, "vocab_size": 99, "max_position_embeddings": 16}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a network, and without its waiting."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


class Wicked:
    """Pickles to a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path: Path) -> Any:
    """A folder that only code out of a checkpoint would make; checked at the end."""
    yield tmp_path / "trap"
    assert not (tmp_path / "trap").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., list[str]]:
    """Write pictures of several sizes and kinds; gives their names."""

    def write(count: int = 4) -> list[str]:
        generator, names = np.random.default_rng(0), []
        for i in range(count):
            size = (48 + 8 * (i % 3), 64 if i % 2 else 40)
            pixels = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            name = f"picture-{i}.{'jpg' if i % 2 else 'png'}"
            (image.convert("L") if i == 2 else image).save(tmp_path / name)
            names.append(name)
        return names

    return write


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Path]:
    """Write a data file, a JSON object per line; text goes in as it is."""

    def write(records: Sequence[Any], name: str = "data.jsonl") -> Path:
        rows = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path = tmp_path / name
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return write


@torch.no_grad()
def noise(model: nn.Module) -> nn.Module:
    """Noise in every weight, so that answers differ from picture to picture."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        made = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.copy_(0.2 * made + (0 if name.endswith("bias") else 1))
        elif parameter.ndim > 1:
            parameter.copy_(made if "embedding" in name else 2 * made / parameter[0].numel() ** 0.5)
    return model.eval()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save a model of transformers, its weights random, with the parts that go with it; gives the folder."""

    def write(model: Any, *parts: Any) -> Path:
        folder = tmp_path / "checkpoint"
        noise(model).save_pretrained(folder)
        for part in parts:
            part.save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def vilt(save: Callable[..., Path], bert_words: Any) -> Callable[..., Path]:
    """A saved ViLT of a kind, its tokenizer and its image processor (shorter side 32, padded)."""
    import transformers

    def write(kind: str = "ViltForQuestionAnswering", parts: bool = True, **options: Any) -> Path:
        labels = {"id2label": dict(enumerate(ANSWERS)), "label2id": {name: i for i, name in enumerate(ANSWERS)}}
        config = transformers.ViltConfig(
            **{**TEXT, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8, "max_image_length": -1, **labels},
            modality_type_vocab_size=3,
            num_images=2,
            **options,
        )
        processor = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
        return save(getattr(transformers, kind)(config), *([bert_words, processor] if parts else []))

    return write


@pytest.fixture
def load() -> Callable[..., tokenreduce.Task]:
    """``load_task`` with the installed plugins."""
    return lambda name, data=None: load_task(tokenreduce.registry.default_registry(), str(name), data)


@pytest.fixture
def judge() -> Callable[..., list[float]]:
    """Scores of every sample of a task, with a reducer attached if one is named."""

    @torch.no_grad()
    def run(task: tokenreduce.Task, reducer: str = "none", batch: int = 3, **options: Any) -> list[float]:
        scores: list[float] = []
        with tokenreduce.attach(task.model, reducer, **options) as handle:
            for part in task.data(100, batch):
                scores += task.metric(task.model(**part.inputs), part.targets).tolist()
            tokens = [(site.tokens_in, site.tokens_out) for site in handle.last.sites]
            assert any(after < before for before, after in tokens) == (reducer != "none"), tokens
        return scores

    return run
