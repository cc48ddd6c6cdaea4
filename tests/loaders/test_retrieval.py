"""Retrieval in both directions and pairs of pictures, against brute force on the plain models."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import tokenreduce
from tokenreduce.errors import OptionError, UnknownNameError
from tokenreduce.tasks.retrieval import ImageRecall, TextRecall

from .conftest import TEXT, VISION

CAPTIONS = [
    ["what colour is the ball", "the ball is red"],
    ["how many cat", "two cat", "a cat"],
    ["is it a dog", "the dog"],
    ["what is it", "a thing"],
]
SIZE = {"height": 32, "width": 32}
TOWER = {**VISION, "image_size": 32, "patch_size": 8}


@pytest.fixture
def captions(pictures, lines):
    """Four pictures with two or three captions each."""
    rows = zip(pictures(4), CAPTIONS, strict=True)
    return lines([{"image": name, "answers": texts} for name, texts in rows])


def blip():
    text = {**TEXT, "encoder_hidden_size": 32, "bos_token_id": 1, "pad_token_id": 0, "sep_token_id": 2}
    config = transformers.BlipConfig(
        text_config=text, vision_config=TOWER, projection_dim=16, image_text_hidden_size=16
    )
    return transformers.BlipForImageTextRetrieval(config), transformers.BlipImageProcessor(size=SIZE)


def bridgetower():
    words = {**TEXT, "hidden_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 24, "initializer_factor": 1}
    config = transformers.BridgeTowerConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        text_config=words,
        vision_config={"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 8, "image_size": 32},
    )
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)
    return transformers.BridgeTowerForImageAndTextRetrieval(config), processor


def clip():
    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=16)
    return transformers.CLIPModel(config), transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)


MODELS = {"clip": clip, "blip": blip, "bridgetower": bridgetower}


def pair_score(kind, out):
    if kind == "clip":
        return float(out.logits_per_image)
    if kind == "blip":
        return float(out.itm_score[0, 1] - out.itm_score[0, 0])
    return float(out.logits[0, 1] - out.logits[0, 0])


@torch.no_grad()
def brute(kind, folder, captions, tokenizer):
    """Scores (pictures, captions) of the plain model, pair by pair, by the library alone."""
    (kind_name,) = json.loads((folder / "config.json").read_text())["architectures"]
    model = getattr(transformers, kind_name).from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rows = [json.loads(line) for line in captions.read_text().splitlines()]
    texts = list(dict.fromkeys(text for row in rows for text in row["answers"]))
    scores = torch.empty(len(rows), len(texts))
    for i, row in enumerate(rows):
        pixels = processor(images=Image.open(captions.parent / row["image"]).convert("RGB"), return_tensors="pt")
        if kind == "blip":
            pixels = {"pixel_values": pixels["pixel_values"]}
        for j, text in enumerate(texts):
            words = tokenizer(text, return_tensors="pt")
            names = ("input_ids", "attention_mask")
            scores[i, j] = pair_score(kind, model(**pixels, **{name: words[name] for name in names}))
    own = [[texts.index(text) for text in row["answers"]] for row in rows]
    return scores.numpy(), own


def expected(scores, own, direction, k):
    """R@k of each picture, by a loop."""
    found = []
    for i, columns in enumerate(own):
        if direction == "text":
            best = np.argsort(-scores[i], kind="stable")[:k]
            found.append(float(bool(set(best) & set(columns))))
        else:
            found.append(np.mean([i in np.argsort(-scores[:, c], kind="stable")[:k] for c in columns]))
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_recall_equals_brute_force(kind, save, bert_words, captions, load):
    model, processor = MODELS[kind]()
    folder = save(model, bert_words, processor)
    task = load(folder, captions)
    scores, own = brute(kind, folder, captions, bert_words)
    with tokenreduce.attach(task.model, "none"), torch.no_grad():
        parts = [(task.ask(task.model, batch.inputs), batch.targets) for batch in task.data(4, 2)]
    torch.testing.assert_close(torch.cat([out for out, _ in parts]), torch.tensor(scores), atol=1e-4, rtol=1e-4)
    for name, metric in task.metrics.items():
        direction, k = name.split(" R@")
        if direction == "text":
            got = torch.cat([metric(out, targets) for out, targets in parts])
        else:
            got = metric.finish([metric.keep(out, targets) for out, targets in parts])
        assert got.tolist() == pytest.approx(expected(scores, own, direction, int(k))), name
    (batch,) = task.data(4, 4)
    one = task.metrics["text R@1"](task.ask(task.model, batch.inputs), batch.targets)
    assert one.tolist() == task.metric(task.ask(task.model, batch.inputs), batch.targets).tolist()


def test_ties_go_to_the_first():
    from tokenreduce.tasks.batches import Target

    scores = torch.zeros(3, 3)
    asked = [Target(answers=(text,)) for text in "abc"]
    assert TextRecall("abc", 1)(scores, asked).tolist() == [1, 0, 0]
    assert ImageRecall("abc", 1)(scores, asked).tolist() == [1, 0, 0]
    assert ImageRecall("abc", 2)(scores, asked).tolist() == [1, 1, 0]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tokenreduce", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.sweep
def test_ablate_by_another_metric(save, bert_words, captions, tmp_path):
    model, processor = clip()
    folder, out = save(model, bert_words, processor), tmp_path / "out.json"
    scores, own = brute("clip", folder, captions, bert_words)
    given = (
        "ablate",
        "--model",
        folder,
        "--data",
        captions,
        "--reducers",
        "tome",
        "--samples",
        4,
        "--batch",
        3,
        "--rounds",
        1,
    )
    for name in ("image R@1", "text R@5", None):
        done = run(*given, "--json", out, *(("--metric", name) if name else ()))
        assert done.returncode == 0, done.stderr
        result = json.loads(out.read_text())
        direction, k = (name or "text R@1").split(" R@")
        row = next(row for row in result["rows"] if row["name"] == "none")
        assert row["accuracy"] == pytest.approx(np.mean(expected(scores, own, direction, int(k))))
        assert result["setup"]["request"].get("metric") == name
    done = run(*given, "--metric", "R@1")
    assert done.returncode != 0 and "'image R@1'" in done.stderr


def test_a_task_without_further_metrics_says_so(vilt, pictures, lines, load):
    (name,) = pictures(1)
    task = load(vilt(), lines([{"image": name, "text": "what is it", "answer": "yes"}]))
    with pytest.raises(UnknownNameError, match="only its own"):
        task.with_metric("image R@1")


def test_two_pictures_and_a_sentence(vilt, pictures, lines, load, bert_words, tmp_path):
    names = pictures(4)
    data = [("is it red", names[:2], "yes"), ("what is it", names[2:], "no"), ("two cat", names[1:3], "red")]
    rows = [{"images": images, "sentence": text, "label": answer} for text, images, answer in data]
    folder = vilt("ViltForImagesAndTextClassification")
    task = load(folder, lines(rows))
    model = transformers.ViltForImagesAndTextClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    (batch,) = task.data(3, 3)
    with torch.no_grad():
        got = task.ask(task.model, batch.inputs)
        for i, (text, images, answer) in enumerate(data):
            made = processor(
                images=[Image.open(tmp_path / name).convert("RGB") for name in images], return_tensors="pt"
            )
            given = {key: side[None] for key, side in made.items()}
            alone = model(**bert_words(text, return_tensors="pt"), **given).logits[0]
            torch.testing.assert_close(got.logits[i], alone, atol=1e-4, rtol=1e-4)
            right = model.config.id2label[int(alone.argmax())] == answer
            assert float(task.metric(got, batch.targets)[i]) == float(right)
        with tokenreduce.attach(task.model, "pumer", layers=[1]) as handle:
            task.ask(task.model, batch.inputs)
            assert handle.last.sites
    assert task.samples(batch)[0].image.shape[-1] == 2 * batch.inputs["pixel_values"].shape[-1]


def test_pairs_need_two_pictures(vilt, pictures, lines, load):
    names = pictures(1)
    with pytest.raises(OptionError, match="1 pictures, and the model compares 2"):
        load(vilt("ViltForImagesAndTextClassification"), lines([{"image": names[0], "text": "a", "answer": "yes"}]))
