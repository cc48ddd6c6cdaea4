"""The scripts of examples/ run as they stand, on the embedded models and on checkpoints in a folder."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {**SMALL, "vocab_size": 99, "max_position_embeddings": 16}


@pytest.fixture
def script(python, tmp_path):
    """Run an example in a folder of its own; gives what it printed."""

    def run(name, *arguments, code=0):
        settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
        done = python(ROOT / "examples" / name, *arguments, cwd=tmp_path, **settings)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture
def photo(tmp_path):
    """A picture in a file."""
    path = tmp_path / "cat.png"
    Image.effect_noise((50, 40), 90).convert("RGB").save(path)
    return path


def test_clip_zero_shot(script):
    printed = script("clip_zero_shot.py", "--rounds", 3, "--batch", 8)
    assert "145 → 132" in printed and "80 → 67" in printed
    before, after = map(float, re.search(r"yellow 0 +([\d.]+)% +([\d.]+)%", printed).groups())
    assert before > 90 and after > 90  # the first held-out picture is a yellow 0
    assert float(re.search(r"at batch 8: ([\d.]+)", printed)[1]) > 0


def test_clip_zero_shot_with_a_checkpoint(script, tmp_path, bert_words, photo):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    folder = tmp_path / "clip"
    CLIPModel(CLIPConfig(vision_config=vision, text_config=TEXT, projection_dim=16)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=bert_words).save_pretrained(folder)
    own = ["--model", folder, "--image", photo, "--labels", "a cat", "a dog", "--r", 2, "--rounds", 1, "--batch", 1]
    printed = script("clip_zero_shot.py", *own)
    assert re.search(r"^a cat +[\d.]+% +[\d.]+%$", printed, re.M) and "17 → 15" in printed
    assert "--model needs a picture" in script("clip_zero_shot.py", "--model", folder, code=2)


def test_vilt_question(script, tmp_path):
    printed = script("vilt_question.py")
    asked = re.findall(r"^(?:what|how|is|are|which) .*", printed, re.M)
    assert len(asked) == 8
    for line in asked:
        *_, right, plain, _, tuned = line.split()
        assert right == plain == tuned
    assert "145 → 87" in printed
    with Image.open(tmp_path / "question.png") as image:
        assert image.size > (500, 300)


def test_vilt_question_with_a_checkpoint(script, tmp_path, bert_words, photo):
    from transformers import ViltConfig, ViltForQuestionAnswering, ViltImageProcessor

    torch.manual_seed(0)
    names = {"id2label": {0: "red", 1: "two"}, "label2id": {"red": 0, "two": 1}}
    sizes = {"image_size": 32, "patch_size": 8, "max_image_length": -1, "modality_type_vocab_size": 3, "num_images": 2}
    folder = tmp_path / "vilt"
    ViltForQuestionAnswering(ViltConfig(**TEXT, **sizes, **names)).save_pretrained(folder)
    for part in (bert_words, ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)):
        part.save_pretrained(folder)
    own = ["--model", folder, "--image", photo, "--question", "what colour is it", "--out", "own.png"]
    printed = script("vilt_question.py", *own)
    assert re.search(r"^what colour is it +\? +(red|two) +(red|two)$", printed, re.M)
    assert (tmp_path / "own.png").stat().st_size > 1000
    assert "--model needs a picture" in script("vilt_question.py", "--model", folder, code=2)


def test_own_reducer(script):
    printed = script("own_reducer.py", "--samples", 8, "--batch", 8, "--rounds", 1)
    shares = {row: re.search(rf"^ ?{row} .* (\d+) %\s*$", printed, re.M)[1] for row in ("random", "tome", "mine")}
    assert all(57 <= int(share) <= 63 for share in shares.values()), shares
    assert re.search(r"^mine: .*(random|input)", printed, re.M)


def test_every_example_is_short_described_and_tested():
    page, tests = (ROOT / "docs" / "examples.md").read_text(), Path(__file__).read_text()
    assert SCRIPTS
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < 80, path.name
        assert f"python examples/{path.name}" in page and f'"{path.name}"' in tests
