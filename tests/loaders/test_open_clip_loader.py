"""Dual encoders of open_clip, saved on the spot, read by name and judged."""

import json

import open_clip
import pytest
import torch
from PIL import Image

import tokenreduce
from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce_models.open_clip.loader import parts

from .conftest import Wicked, noise

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "resize_mode": "squash"}
TEXTS = ["a photo of a cat", "a photo of a dog", "two red balls"]


@pytest.fixture
def folder(tmp_path):
    """A small CLIP in open_clip's form."""
    made = tmp_path / "open-clip-model"
    made.mkdir()
    (made / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    torch.manual_seed(0)
    torch.save(noise(open_clip.CLIP(**CONFIG)).state_dict(), made / "open_clip_pytorch_model.bin")
    return made


@pytest.fixture
def architecture(tmp_path, monkeypatch):
    """The same as an architecture that open_clip knows by name, for this test."""
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


@pytest.fixture
def data(pictures, lines):
    rows = [{"image": name, "answer": TEXTS[i % 3]} for i, name in enumerate(pictures(4))]
    rows[1]["choices"] = TEXTS[1:]
    rows[3] = {"image": rows[3]["image"], "caption": TEXTS[0]}
    return lines(rows)


def scores_by_hand(made, data):
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{made}")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    images = torch.stack([transform(Image.open(data.parent / row["image"]).convert("RGB")) for row in rows])
    with torch.no_grad():
        image, text, scale = model.eval()(images, open_clip.get_tokenizer(f"local-dir:{made}")(TEXTS))[:3]
    return images, scale * image @ text.T


@pytest.mark.parametrize("prefix", ["", "local-dir:", "open_clip:"])
def test_a_folder(prefix, folder, data, load, judge):
    task = load(f"{prefix}{folder}", data)
    images, logits = scores_by_hand(folder, data)
    batch = task.data(4, 4)[0]
    assert torch.equal(batch.inputs["pixel_values"], images)
    with torch.no_grad():
        assert torch.allclose(task.model(**batch.inputs), logits, rtol=1e-4, atol=1e-4)
    expected = [float(int(logits[0].argmax()) == 0), float(int(logits[1, 1:].argmax()) == 0)]
    expected += [float(int(logits[2].argmax()) == 2), float(int(logits[3].argmax()) == 0)]
    assert judge(task) == judge(task, batch=1) == expected
    judge(task, "tome", r=3)
    judge(task, "random", keep=0.5)
    assert task.answers(logits) == [TEXTS[i] for i in logits.argmax(-1)]
    sample = task.samples(batch)[0]
    back = (sample.image - torch.tensor(PREPROCESS["mean"])[:, None, None]) / torch.tensor(PREPROCESS["std"])[
        :, None, None
    ]
    assert torch.allclose(back, images[0], atol=1e-5) and sample.answer == TEXTS[0]


def test_a_text_guides_the_wrapper(folder, data, load):
    task = load(folder, data)
    batch = task.data(4, 4)[0]
    with tokenreduce.attach(task.model, "pumer", layers=[0, 1], guide=task.model.texts[:1]) as handle, torch.no_grad():
        task.model(**batch.inputs)
        assert handle.last.sites[0].tokens_out < handle.last.sites[0].tokens_in


def test_a_picture_and_a_text_without_a_file(folder, data, load):
    task = load(folder)
    image = Image.open(data.parent / "picture-0.png").convert("RGB")
    with torch.no_grad():
        (word,) = task.answers(task.model(**task.prepare([image], [TEXTS[0]])))
        expected = float(scores_by_hand(folder, data)[1][0, 0])
        assert float(word.removeprefix("score ")) == pytest.approx(expected, abs=0.01)
        assert task.answers(task.model(**task.prepare([image], [""]))) == [""]


def test_an_architecture_and_a_file(folder, architecture, data, load, judge):
    file = folder / "open_clip_pytorch_model.bin"
    task = load(f"open_clip:{architecture}/{file}", data)
    assert len(judge(task, "tome", r=3)) == 4
    assert parts(f"{architecture}/{file}") == (architecture, str(file))
    assert parts("ViT-B-32/laion2b_s34b_b79k") == ("ViT-B-32", "laion2b_s34b_b79k")


def test_mistakes_are_explained(folder, architecture, data, lines, load):
    for name, words in {
        f"open_clip:{architecture}": r"random; type open_clip:tiny-clip/TAG",
        f"open_clip:{architecture}/nothing": r"not a known tag or valid file path.*local-dir:FOLDER",
        "open_clip:no-such/x": r"'no-such' not found in built-ins",
        "open_clip:ViT-B-32/x.npz": "arrays of another program",
        "hf-hub:nobody/nothing": r"open_clip cannot read 'hf-hub:nobody/nothing'.*network.*LOADER:NAME",
        f"open_clip:local-dir:{folder}/no": "not found",
    }.items():
        with pytest.raises(UnsupportedModelError, match=words):
            load(name)
    with pytest.raises(OptionError, match="no answer and no text"):
        load(folder, lines([{"image": "picture-0.png"}]))
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(UnsupportedModelError, match="could not be loaded"):
        load(folder)


def test_nothing_in_the_files_is_run(folder, load, trap):
    weights = folder / "open_clip_pytorch_model.bin"
    good = weights.read_bytes()
    torch.save({"state_dict": Wicked(trap)}, weights)
    with pytest.raises(UnsupportedModelError, match="open_clip cannot read"):
        load(folder)
    weights.write_bytes(good)
    text = {**CONFIG["text_cfg"], "hf_tokenizer_name": "evil", "tokenizer_kwargs": {"trust_remote_code": True}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**CONFIG, "text_cfg": text}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(trap)!r})\nclass Evil: pass\n")
    with pytest.raises(UnsupportedModelError, match="open_clip cannot read"):
        load(folder)


def test_an_ablation_of_a_file(folder, data, load):
    task = load(folder, data)
    rows = {"none": {}, "tome": {"r": 3}}
    result = tokenreduce.ablate(task.model, task.data(4, 2), rows, metric=task.metric, rounds=1, break_even=False)
    assert result.ok and all(0 <= row.accuracy <= 1 for row in result.rows)
