"""Language models with images as checkpoints: saved on the spot with their processor, asked, judged and shown."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce.report.regions import regions
from tokenreduce.report.sample_view import attach_traced, pictures
from tokenreduce.tasks.data import take
from tokenreduce.tasks.scoring import vqa_accuracy

from .lvlms import ANSWERS, PROCESSORS, QUESTIONS, TEMPLATE, write

MAIN = ("qwen2_5_vl", "llava_next")
"""Families that are tried beside LLaVA; the others by ``-m sweep``."""


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as save_pretrained writes it, LLaVA's if no other family's; with or without a chat template."""
    return lambda family="llava", template=TEMPLATE: write(family, tmp_path / family, template)


@pytest.fixture
def asked(tmp_path, lines):
    """Four questions about pictures of several sizes, bright at the bottom and at the right."""
    rows = []
    sizes = [(40, 64), (48, 48), (64, 40), (40, 64)]
    for i, (size, text, answer) in enumerate(zip(sizes, QUESTIONS, ANSWERS, strict=True)):
        down, right = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
        noise = np.random.default_rng(i).random(size)
        pixels = (255 * np.stack([down, right, noise], axis=-1)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "question": text, "answer": answer})
    return lines(rows)


def plain_answers(family, folder, data):
    """What the library writes for each question by itself."""
    task = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    answers = []
    for row in map(json.loads, data.read_text().splitlines()):
        with Image.open(data.parent / row["image"]) as file:
            image = file.convert("RGB")
        content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        if processor.chat_template:
            words = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        else:
            words = f"USER: <image>\n{row['question']} ASSISTANT:"
        given = processor(images=[[image]], text=[words], return_tensors="pt")
        accepted = {name: side for name, side in given.items() if name not in ("labels", "rows", "cols")}
        out = task.generate(**accepted, do_sample=False, max_new_tokens=32)
        answers.append(
            processor.batch_decode(out[:, given["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
        )
    return answers


def check_answers(family, folder, data, load):
    """A left-padded batch, its samples and any of them say what the library says to each by itself."""
    task = load(folder, data)
    (batch,) = task.data(4, 4)
    assert not bool(batch.inputs["attention_mask"].all()), "nothing is padded"
    got = task.ask(task.model, batch.inputs)
    assert len(set(got)) > 1 and got == plain_answers(family, folder, data)
    assert [task.ask(task.model, one.inputs)[0] for one in task.data(4, 1)] == got
    assert task.ask(task.model, take(batch.inputs, 4, [2, 0])) == [got[2], got[0]]
    scores = task.metric(got, batch.targets).tolist()
    assert scores == [vqa_accuracy(text, [answer]) for text, answer in zip(got, ANSWERS, strict=True)]
    return task, batch, got


def check_pictures(task, batch, plain):
    """What is left of each picture, drawn; the patches are those that the model was given."""
    with attach_traced(task, "random", {"keep": 7}) as handle:
        assert task.ask(task.model, batch.inputs) != plain
        before = handle.last.initial["image"]
        drawn = pictures(task, batch.inputs, task.samples(batch), "random", handle, plain)
    found = [regions(picture.grid, picture.owner) for picture in drawn]
    assert [len(one.kept) for one in found] == [7] * 4
    assert sum(one.patches for one in found) / 4 == pytest.approx(before)
    assert task.ask(task.model, batch.inputs) == plain
    return drawn


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_it_writes_what_the_library_writes(checkpoint, asked, load, template):
    check_answers("llava", checkpoint(template=template), asked, load)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
@pytest.mark.parametrize("family", [*MAIN, *(pytest.param(n, marks=pytest.mark.sweep) for n in PROCESSORS)])
def test_every_family_is_asked_and_drawn(checkpoint, asked, load, family):
    task, batch, plain = check_answers(family, checkpoint(family), asked, load)
    drawn = check_pictures(task, batch, plain)
    for picture, sample in zip(drawn, task.samples(batch), strict=True):
        left, right = sample.image.tensor_split(2, dim=2)
        top, bottom = sample.image.tensor_split(2, dim=1)
        assert bottom[0].mean() > top[0].mean() + 0.2 and right[1].mean() > left[1].mean() + 0.2
        for tile in sample.tiles:
            assert tile.image.min() >= 0 and tile.image.max() <= 1
        if len(sample.tiles) > 2:  # tiles at their places: the lower ones are redder, those at the right greener
            *parts, _ = sample.tiles
            red = {tile.row: float(tile.image[0].mean()) for tile in parts}
            green = {tile.column: float(tile.image[1].mean()) for tile in parts}
            assert sorted(red.values()) == [red[row] for row in sorted(red)]
            assert sorted(green.values()) == [green[column] for column in sorted(green)]
        assert picture.text == sample.text


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tokenreduce", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    return done


def test_show_draws_what_is_left_of_a_picture(checkpoint, asked, tmp_path):
    out = tmp_path / "out.png"
    plan = (
        '{"handover": {"reducer": "tome", "r": 12}, "language": {"reducer": "evit", '
        '"layers": [1], "keep": 0.5, "fuse": false}}'
    )
    done = run("show", "--model", checkpoint(), "--data", asked, "--sample", 0, "--out", out, "--reducer", plan)
    assert done.returncode == 0, done.stderr
    assert re.search(r"patches: 36 to 12 tokens", done.stdout), done.stdout
    assert "handover" in done.stdout and "keys and values" in done.stdout and "right answer: red" in done.stdout
    assert varied(out)


@pytest.mark.sweep
def test_show_draws_a_picture_of_ones_own_in_tiles(checkpoint, asked, tmp_path):
    out = tmp_path / "out.png"
    given = ("--text", "where ?", "--out", out, "--reducer", "random", "--set", "keep=9")
    done = run("show", tmp_path / "0.png", "--model", checkpoint("llava_next"), *given)
    assert done.returncode == 0, done.stderr
    assert re.search(r"patches: 64 to 9 tokens \(9 kept, 55 gone\)", done.stdout), done.stdout
    assert "of an image" in done.stdout and "of a tile" in done.stdout, done.stdout
    with Image.open(out) as image:
        assert image.width > 1000


def varied(path):
    """Whether there is anything to be seen in a picture."""
    with Image.open(path) as image:
        return np.asarray(image).std() > 0


def judged(folder, data, out, *arguments):
    """Rows of an ablation on the command line."""
    given = ("--model", folder, "--data", data, "--samples", 4, "--batch", 2, "--json", out)
    quick = ("--rounds", 1, "--seeds", 1, "--batch-sizes", "1,2", "--no-break-even")
    done = run("ablate", *given, *quick, *arguments)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert not [row for row in rows.values() if row.get("failed")], done.stdout
    return rows


@pytest.mark.sweep
def test_ablate_judges_what_is_written(checkpoint, asked, tmp_path):
    page = tmp_path / "page.html"
    given = ("--reducers", "fastv", "--report", page, "--pictures", 1)
    rows = judged(checkpoint("qwen2_5_vl"), asked, tmp_path / "result.json", *given)
    assert {"none", "random", "pooling", "uniform", "fastv"} <= set(rows)  # two more controls than elsewhere
    assert [name for name, row in rows.items() if row["role"] == "control"] == ["pooling", "random", "uniform"]
    assert not [row for row in rows.values() if row["failed"]]
    assert all(rows[name]["macs"] < rows["none"]["macs"] for name in ("random", "fastv"))
    assert "data:image/png;base64" in page.read_text() and "no pictures of" not in page.read_text()
    assert all(len(row["scores"]) == 4 and set(row["scores"]) <= {0.0, 1.0} for row in rows.values())


@pytest.mark.sweep
@pytest.mark.parametrize("family", PROCESSORS)
def test_the_command_line_takes_every_family(checkpoint, asked, tmp_path, family):
    folder, out = checkpoint(family), tmp_path / "out.png"
    done = run("show", tmp_path / "1.png", "--text", "where ?", "--model", folder, "--reducer", "fastv", "--out", out)
    assert done.returncode == 0, done.stderr
    assert varied(out) and "kept" in done.stdout
    rows = judged(folder, asked, tmp_path / "result.json", "--reducers", "fastv")
    assert all(rows[name]["macs"] < rows["none"]["macs"] for name in ("random", "fastv"))


def test_what_is_missing_is_said(checkpoint, asked, load):
    folder = checkpoint()
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        load(folder, asked)


def test_without_a_chat_template_only_models_published_so_are_asked(checkpoint, asked, load):
    with pytest.raises(UnsupportedModelError, match=r"no chat template.*chat_template\.jinja"):
        load(checkpoint("qwen2_vl", None), asked)


def test_choices_and_several_pictures_are_refused(checkpoint, asked, lines, load):
    record = {"image": "0.png", "question": "what ?", "answer": "red"}
    folder = checkpoint()
    with pytest.raises(OptionError, match="writes its answer"):
        load(folder, lines([{**record, "choices": ["red", "no"]}]))
    record["images"] = [record.pop("image"), "1.png"]
    with pytest.raises(OptionError, match="asked of one"):
        load(folder, lines([record]))


def test_a_chat_template_that_begins_with_the_first_token_adds_no_second_one(checkpoint, asked, load):
    task = load(checkpoint(template="<s>" + TEMPLATE), asked)
    (batch,) = task.data(4, 4)
    assert (batch.inputs["input_ids"] == 1).sum(dim=1).tolist() == [1] * 4


def test_a_packed_model_takes_what_the_library_takes(checkpoint, asked, load):
    task = load(checkpoint("molmo2"), asked)
    (batch,) = task.data(4, 4)
    from tokenreduce_models.transformers.loaders.packed import joined, split

    whole = joined(batch.inputs)
    again = split(whole, (whole["input_ids"] == task.model.config.image_token_id).sum(dim=1))
    for name in ("pixel_values", "image_token_pooling"):
        assert all(torch.equal(a, b) for a, b in zip(again[name], batch.inputs[name], strict=True))
    with torch.no_grad():
        torch.testing.assert_close(task.model(**batch.inputs).logits, task.model.model(**whole).logits)


def test_the_loader_takes_every_family_of_the_adapter():
    from tokenreduce_models.transformers.language.examples import EXAMPLES
    from tokenreduce_models.transformers.language.families import FAMILIES
    from tokenreduce_models.transformers.loaders.loader import WRITING

    classes = {cls.__name__ for family in FAMILIES.values() for cls in family.outer}
    assert set(WRITING) == classes == set(EXAMPLES)
    assert set(PROCESSORS) == set(FAMILIES) - {"smolvlm"}


def test_qwens_patches_are_a_picture_again():
    from tokenreduce_models.transformers.loaders.views import unpatched

    config = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(patch_size=4)
    kind, plain = transformers.Qwen2VLImageProcessor, {"do_resize": False, "do_rescale": False, "do_normalize": False}
    processor = kind(patch_size=4, merge_size=2, temporal_patch_size=2, **plain)
    picture = torch.randint(0, 255, (3, 16, 24), dtype=torch.uint8)
    made = processor(images=[picture], return_tensors="pt")
    got = unpatched(made["pixel_values"], made["image_grid_thw"][0].tolist(), config)
    torch.testing.assert_close(got.float(), picture.float())
