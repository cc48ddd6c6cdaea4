"""The scripts of examples/ run as they stand, on the embedded models and on checkpoints in a folder."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

import tokenreduce

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


@pytest.mark.sweep
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


@pytest.mark.sweep
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


@pytest.mark.sweep
def test_own_reducer(script):
    printed = script("own_reducer.py", "--samples", 8, "--batch", 8, "--rounds", 1)
    shares = {row: re.search(rf"^ ?{row} .* (\d+) %\s*$", printed, re.M)[1] for row in ("random", "tome", "mine")}
    assert all(57 <= int(share) <= 63 for share in shares.values()), shares
    assert re.search(r"^mine: .*(random|input)", printed, re.M)


@pytest.mark.sweep
def test_embed_with_ray(script, tmp_path):
    """A small Ray on this machine: two workers, each with a model of its own."""
    import pyarrow.parquet

    from tokenreduce.registry import default_registry

    script("embed_with_ray.py", "--count", 24, "--batch", 5, "--out", tmp_path / "out")
    rows = sorted(pyarrow.parquet.read_table(tmp_path / "out").to_pylist(), key=lambda row: row["number"])
    assert [row["number"] for row in rows] == list(range(24)) and {row["tokens"] for row in rows} == {97}
    task = default_registry().load("task", "clip-digits")()
    clip = task.model.clip
    with torch.no_grad(), tokenreduce.attach(clip, {"vision": {"reducer": "tome", "r": 8}}):
        pixels = task.data(24, 24)[0].inputs["pixel_values"]
        wanted = clip.visual_projection(clip.vision_model(pixels).pooler_output)
    assert_close = torch.testing.assert_close
    assert_close(torch.tensor([row["embedding"] for row in rows]), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.sweep
def test_embed_with_ray_a_folder_of_pictures(script, tmp_path, photo):
    import pyarrow.parquet
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=TEXT, projection_dim=16)).save_pretrained(tmp_path / "clip")
    square = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(tmp_path / "clip")
    (tmp_path / "photos").mkdir()
    photo.rename(tmp_path / "photos" / "cat.png")
    script("embed_with_ray.py", "--model", tmp_path / "clip", "--images", "photos", "--r", 2, "--workers", 1)
    (row,) = pyarrow.parquet.read_table(tmp_path / "embeddings").to_pylist()
    assert row["path"].endswith("cat.png") and len(row["embedding"]) == 16
    assert "go together" in script("embed_with_ray.py", "--images", "photos", code=2)


def test_every_example_is_short_described_and_tested():
    page, tests = (ROOT / "docs" / "examples.md").read_text(), Path(__file__).read_text()
    assert SCRIPTS
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < 80, path.name
        assert f"python examples/{path.name}" in page and f'"{path.name}"' in tests


@pytest.fixture
def coco_pictures(tmp_path):
    """Three of four pictures of COCO's validation set, by their names."""
    folder = tmp_path / "val2014"
    folder.mkdir()
    for number in (42, 73, 74):
        Image.effect_noise((40, 32), 90).convert("RGB").save(folder / f"COCO_val2014_{number:012d}.jpg")
    return folder


@pytest.mark.sweep
def test_vqav2_becomes_a_data_file_that_an_ablation_takes(script, coco_pictures, tmp_path, bert_words, python):
    questions = [{"image_id": n, "question": f"is it {n}?", "question_id": n * 1000} for n in (42, 73, 74, 99)]
    votes = ["yes"] * 7 + ["no"] * 3
    answers = [{"answer": vote, "answer_confidence": "yes", "answer_id": i + 1} for i, vote in enumerate(votes)]
    annotations = [
        {"question_id": one["question_id"], "image_id": one["image_id"], "answer_type": "yes/no", "answers": answers}
        for one in questions
    ]
    (tmp_path / "q.json").write_text(json.dumps({"info": {}, "task_type": "Open-Ended", "questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"info": {}, "annotations": annotations}))
    printed = script("convert_data.py", "vqa", "q.json", "a.json", "--images", "val2014", "--out", "vqa.jsonl")
    assert "vqa.jsonl: 3 lines" in printed
    first, *_ = (json.loads(line) for line in (tmp_path / "vqa.jsonl").read_text().splitlines())
    assert first == {
        "image": "val2014/COCO_val2014_000000000042.jpg",
        "question": "is it 42?",
        "answers": votes,
        "group": "yes/no",
    }
    config = transformers.ViltConfig(
        **{**TEXT, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        modality_type_vocab_size=3,
        id2label={0: "yes", 1: "no"},
        label2id={"yes": 0, "no": 1},
    )
    folder = tmp_path / "vilt"
    transformers.ViltForQuestionAnswering(config).save_pretrained(folder)
    bert_words.save_pretrained(folder)
    transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8).save_pretrained(folder)
    given = ("ablate", "--model", folder, "--data", tmp_path / "vqa.jsonl", "--reducers", "tome", "--samples", 3)
    done = python("-m", "tokenreduce", *map(str, given), "--batch", "3", "--rounds", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    scores = {row["name"]: row["accuracy"] for row in json.loads(done.stdout)["rows"]}
    assert set(scores) >= {"none", "random", "tome"}


def test_coco_captions_become_one_line_per_picture(script, coco_pictures, tmp_path):
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (42, 73, 74, 99)]
    texts = [
        {"image_id": n, "id": 10 * n + i, "caption": f"caption {i}\n of {n} "} for n in (42, 73, 99) for i in range(5)
    ]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": texts}))
    printed = script(
        "convert_data.py", "coco", "c.json", "--images", "val2014", "--out", "captions.jsonl", "--first", 9
    )
    assert "captions.jsonl: 2 lines" in printed
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert rows[0]["answers"] == [f"caption {i} of 42" for i in range(5)]


def test_what_cannot_be_converted_is_said(script, tmp_path):
    (tmp_path / "c.json").write_text('{"images": []}')
    told = script("convert_data.py", "coco", "c.json", "--images", ".", "--out", "o.jsonl", code=1)
    assert "expected JSON with a list 'annotations'" in told
