"""What is done to data without being asked is said in one line under the table; what would be silently wrong is not."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import tokenreduce
from tokenreduce.errors import OptionError, UnsupportedModelError
from tokenreduce.tasks.records import read_records

from .conftest import TEXT, VISION


@pytest.fixture
def data_line():
    """The line of an ablation of a task."""

    def of(task, batch=4):
        result = tokenreduce.ablate(
            task.model, task.data(100, batch), ["none"], metric=task.metric, rounds=3, break_even=False
        )
        assert result.ok, [row.failed for row in result.rows]
        lines = [note for note in result.setup["notes"] if note.startswith("data: ")]
        assert len(lines) <= 1
        return lines[0] if lines else ""

    return of


def test_pictures_texts_answers_and_groups(vilt, pictures, lines, load, data_line, tmp_path):
    names = pictures(3)
    Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    rows = [{"image": name, "text": "what is it ?", "answer": "red"} for name in names]
    assert data_line(load(vilt(), lines(rows))) == ""
    rows += [{"image": "deep.png", "text": "what " * 50, "answer": "a zebra"}]
    rows += [{"image": names[0], "text": "what xylophone", "answer": "two", "group": "odd"}]
    said = data_line(load(vilt(), lines(rows)))
    for part in (
        "1 of 4 pictures have more than 8 bits",
        "1 of 3 texts are longer than the 16 tokens",
        "1 of 3 texts have words that the tokenizer does not know",
        "1 of 5 questions have no right answer among the 4",
        "4 of 5 samples have no group",
    ):
        assert part in said, said


@pytest.fixture
def clip(save, tmp_path):
    """A saved CLIP with the tokenizer of a few words."""
    import transformers

    words = sorted(set("acdogtphl "))
    pieces = ["<|startoftext|>", "<|endoftext|>", "at", *words, *(f"{letter}</w>" for letter in words)]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    text = {**TEXT, "pad_token_id": 1, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**VISION, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    size = {"height": 32, "width": 32}
    return save(
        transformers.CLIPModel(config), tokenizer, transformers.CLIPImageProcessor(size=size, do_center_crop=False)
    )


def test_captions_on_lines_of_their_own_and_texts_that_are_alike(clip, pictures, lines, load, data_line):
    one, two = pictures(2)
    long = "a cat " * 10
    rows = [{"image": one, "caption": "a cat"}, {"image": one, "caption": "A cat"}, {"image": two, "caption": long}]
    said = data_line(load(clip, lines([*rows, {"image": two, "caption": long + "dog"}])))
    for part in (
        "2 of 2 pictures stand in several lines with different right texts",
        '"answers": [...]',
        "2 of 4 texts are longer than the 16 tokens",
        "2 of 4 texts are to the model as another one is",
    ):
        assert part in said, said
    together = [{"image": one, "answers": ["a cat", "A cat"]}, {"image": two, "answer": "a dog"}]
    assert "several lines" not in data_line(load(clip, lines(together)))


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",), ("special_tokens_map.json",)])
def test_a_checkpoint_without_a_vocabulary_is_refused(kept, vilt, load):
    folder = vilt()
    for file in folder.iterdir():
        if ("token" in file.name or "vocab" in file.name) and file.name not in kept:
            file.unlink()
    with pytest.raises(UnsupportedModelError, match=r"vocabulary of its tokenizer.*save_pretrained"):
        load(folder)


def test_half_a_vocabulary_is_none(clip, load, tmp_path):
    assert load(clip)
    (clip / "tokenizer.json").unlink()
    (clip / "vocab.json").write_text((tmp_path / "vocab.json").read_text())
    with pytest.raises(UnsupportedModelError, match="merges"):
        load(clip)
    (clip / "merges.txt").write_text("#version: 0.2\na t\n")
    assert load(clip)
    (clip / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    with pytest.raises(UnsupportedModelError, match="vocabulary"):
        load(clip)


def test_a_picture_that_no_input_can_be_made_of_is_named(vilt, pictures, lines, load, tmp_path):
    Image.new("RGB", (1, 2000)).save(tmp_path / "thin.png")
    rows = [{"image": name, "text": "what", "answer": "red"} for name in [*pictures(2), "thin.png"]]
    task = load(vilt(), lines(rows))
    with pytest.raises(OptionError, match=r"thin\.png \(1x2000 pixels\)"):
        tokenreduce.ablate(task.model, task.data(9, 3), ["none"], metric=task.metric)
    with pytest.raises(OptionError, match="cannot take a picture of 1x2000 pixels"):
        task.prepare([Image.new("RGB", (1, 2000))], [""])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"image": "iVBORw0KGgo" + "A" * 9000}, ["pixels in the line", "9011 letters"]),
        ({"image": "A" * 300}, ["no picture at"]),
        ({"image": "data:image/png;base64,AAAA"}, ["pixels in the line"]),
        ({"image": "https://example.com/a.png"}, ["nothing is downloaded"]),
        ({"image": "a\0b.png"}, ["'image'"]),
        ('{"image": "a.png", "text": "\\ud83d"}', ["half of a surrogate pair"]),
        ('{"image": "picture-0.png", "answer": 1' + "0" * 5000 + "}", ["one JSON object"]),
        ("[" * 100_000, ["one JSON object"]),
    ],
)
def test_lines_that_people_have_are_refused_with_their_number(line, words, pictures, lines):
    pictures(1)
    with pytest.raises(OptionError) as caught:
        read_records(lines([{"image": "picture-0.png"}, line]))
    for word in ["line 2", *words]:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 900


def test_other_forms_of_data_are_named(tmp_path):
    for name, text, words in (
        ("a.json", '[\n {"image": "a.png"},\n {"image": "b.png"}\n]', "one JSON document"),
        ("b.json", '{\n "questions": [{"image_id": 1}]\n}', "one JSON document"),
        ("c.json", '{\n "image": "a.png"\n}', "one JSON object over several lines"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(OptionError, match=words):
            read_records(tmp_path / name)


def test_names_and_texts_are_the_same_however_they_are_composed(lines, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "cafe\u0301.png")
    (record,) = read_records(
        lines([{"image": "caf\u00e9.png", "answer": "cafe\u0301", "choices": ["caf\u00e9", "tea"]}])
    )
    assert record.image.is_file() and record.answers == ("caf\u00e9",) and record.answers[0] in record.choices


def test_logits_that_are_not_finite_are_said(vilt, pictures, lines, load):
    rows = [{"image": name, "text": "what is it ?", "answer": "yes"} for name in pictures(4)]
    task = load(vilt(), lines(rows))
    task.model.classifier[-1].weight.data.fill_(torch.nan)
    result = tokenreduce.ablate(task.model, task.data(4, 2), ["none"], metric=task.metric, rounds=1, break_even=False)
    assert all("not finite" in row.failed for row in result.rows)
    batch = task.data(4, 4)[0]
    output = task.model(**batch.inputs)
    assert task.answers(output) == ["(not a number)"] * 4 and task.metric(output, batch.targets).sum() == 0
