"""``tokenreduce reproduce`` on stand-ins made on the spot: small checkpoints and data of the kinds presets name."""

import json
import re

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

import tokenreduce
from tokenreduce.lab.reproduction import publication
from tokenreduce.methods.factory import check_config


@pytest.fixture
def imagenet(tmp_path):
    """A folder with a folder of pictures per class."""
    generator = np.random.default_rng(0)
    for name in ("n01440764", "n01443537"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        for i in range(5):
            pixels = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "imagenet" / name / f"{i}.png")
    return tmp_path / "imagenet"


@pytest.fixture
def vit(tmp_path):
    """A folder of timm with a small ViT."""
    folder = tmp_path / "vit"
    folder.mkdir()
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=2, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 2,
        "model_args": options,
        "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 2, "label_names": ["tench", "goldfish"]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measured(text):
    """Rows of the table: label, published, measured."""
    return re.findall(r"^ *(\S.*?)  +([\d.]+|not stated) +([\d.]+) +[\d.]+ to [\d.]+", text, re.M)


def test_without_a_preset_it_lists_them(python):
    done = python("-m", "tokenreduce", "reproduce", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for name in ("pumer-vilt-vqav2", "tome-vit-s16", "evit-deit-s-0.7"):
        assert name in done.stdout
    assert "--model CHECKPOINT --data PATH" in done.stdout


@pytest.mark.parametrize(("preset", "rows"), [("tome-vit-s16", 2), ("evit-deit-s-0.7", 3)])
def test_published_beside_measured(python, vit, imagenet, preset, rows):
    given = ("--model", f"local-dir:{vit}", "--data", imagenet, "--samples", 10, "--batch", 4)
    done = python("-m", "tokenreduce", "reproduce", preset, *map(str, given), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    told = publication(tokenreduce.registry.default_registry(), preset)
    found = measured(done.stdout)
    assert len(found) == rows
    assert [value for _, value, _ in found] == [
        "not stated" if told.full is None else f"{told.full:.1f}",
        *(f"{setting.published:.1f}" for setting in told.settings),
    ]
    assert "3 blocks, the published one 12" in done.stdout and "32 x 32 pixels, published were 224" in done.stdout
    assert "10 samples" in done.stdout and "sorted order" not in done.stderr
    from tokenreduce.tasks.loading import load_task

    task = load_task(tokenreduce.registry.default_registry(), f"local-dir:{vit}", imagenet)
    setting = told.settings[0]
    with tokenreduce.attach(task.model, setting.reducer, **setting.options), torch.no_grad():
        scores = [task.metric(task.ask(task.model, one.inputs), one.targets) for one in task.data(10, 4)]
    assert float(found[1][2]) == pytest.approx(100 * float(torch.cat(scores).mean()), abs=0.06)


def test_pumer_on_a_small_vilt(python, imagenet, tmp_path):
    names = ["yes", "no"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "it", "red"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    config = transformers.ViltConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        modality_type_vocab_size=3,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    folder = tmp_path / "vilt"
    transformers.ViltForQuestionAnswering(config).save_pretrained(folder)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8).save_pretrained(folder)
    pictures = sorted(imagenet.rglob("*.png"))
    table = "image,question,answer\n" + "".join(f"{path},is it red,{names[i % 2]}\n" for i, path in enumerate(pictures))
    (tmp_path / "vqa.csv").write_text(table)
    given = ("--model", folder, "--data", tmp_path / "vqa.csv", "--samples", 10)
    done = python("-m", "tokenreduce", "reproduce", "pumer-vilt-vqav2", *map(str, given), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert [row[1] for row in measured(done.stdout)] == ["69.5", "68.9"]
    assert "published -0.6 points" in done.stdout and "blocks" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tome-vit-s15"], "tome-vit-s16"),
        (["tome-vit-s16"], "--model is missing"),
        (["tome-vit-s16", "--model", "x"], "--data is missing"),
        (["tome-vit-s16", "--model", "x", "--data", "y", "--samples", "0"], "--samples"),
        (["--model", "x"], "expected a preset"),
    ],
)
def test_wrong_use(python, arguments, words):
    done = python("-m", "tokenreduce", "reproduce", *arguments, COLUMNS="200")
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_another_kind_of_checkpoint_is_refused(python, vit, imagenet):
    given = ("pumer-vilt-vqav2", "--model", f"local-dir:{vit}", "--data", str(imagenet))
    done = python("-m", "tokenreduce", "reproduce", *given, COLUMNS="200")
    assert done.returncode == 2
    assert "expected a checkpoint of ViltForQuestionAnswering, got a VisionTransformer" in done.stderr


def test_every_preset_is_valid():
    registry = tokenreduce.registry.default_registry()
    assert registry.reproductions
    for name in registry.reproductions:
        told = publication(registry, name)
        assert told.settings and told.classes
        for setting in told.settings:
            assert 0 < setting.published < 100
            check_config({"reducer": setting.reducer, **setting.options})
