"""Data files and the batches made of them."""

import json

import pytest
import torch
from PIL import Image

from tokenreduce.errors import OptionError
from tokenreduce.tasks.batches import RecordBatches, Scale, Target, open_image, samples
from tokenreduce.tasks.records import read_records
from tokenreduce.tasks.scoring import Labels


def test_every_field_and_synonym(pictures, lines):
    first, second, *_ = pictures(2)
    path = lines(
        [
            {"image": first, "text": "what?", "answers": ["yes", "no", 2], "choices": ["yes", 2], "group": "g"},
            "   ",
            {"image": second, "question": "why?", "label": 7, "choices": None, "id": "x-1"},
            {"image": first, "caption": "a cat"},
        ]
    )
    one, two, three = read_records(path)
    assert one.image.is_file() and one.image.name == first
    assert (one.text, one.answers, one.choices, one.group) == ("what?", ("yes", "no", "2"), ("yes", "2"), "g")
    assert (two.text, two.answers, two.choices, two.group) == ("why?", ("7",), (), "")
    assert (three.text, three.answers) == ("a cat", ())


def test_a_windows_file_is_read_the_same(pictures, tmp_path):
    (name,) = pictures(1)
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"image": name, "text": "a\u2028b"}).encode() + b"\r\n\r\n")
    (record,) = read_records(str(path))
    assert record.text == "a\u2028b"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["one JSON object", "'{'"]),
        ("[1, 2]", ["JSON object", "[1, 2]"]),
        ("{}", ["'image'", "None"]),
        ({"image": 3}, ["'image'", "3"]),
        ({"image": "gone.png"}, ["gone.png", "relative to the folder"]),
        ({"image": "picture-0.png", "text": 3}, ["'text'", "3"]),
        ({"image": "picture-0.png", "anwser": "x"}, ["'anwser'", "'answer'"]),
        ({"image": "picture-0.png", "answer": "x", "answers": ["y"]}, ["both"]),
        ({"image": "picture-0.png", "answer": "x", "label": "y"}, ["'label'", "'answer'"]),
        ({"image": "picture-0.png", "answer": True}, ["'answer'", "True"]),
        ({"image": "picture-0.png", "answer": 1.5}, ["whole number", "1.5"]),
        ({"image": "picture-0.png", "answers": "yes"}, ["'answers'", "list", "'yes'"]),
        ({"image": "picture-0.png", "choices": []}, ["'choices'", "one text or more"]),
        ({"image": "picture-0.png", "group": ["a"]}, ["'group'"]),
    ],
)
def test_a_bad_line_is_named(pictures, lines, line, words):
    pictures(1)
    path = lines([{"image": "picture-0.png"}, "", line])
    with pytest.raises(OptionError) as caught:
        read_records(path)
    for word in [f"{path}, line 3", *words]:
        assert word in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(OptionError, match=r"none at .*gone\.jsonl"):
        read_records(tmp_path / "gone.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(OptionError, match=r'empty.*"image": "a\.jpg"'):
        read_records(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"image": "\xe9.jpg"}')
    with pytest.raises(OptionError, match="UTF-8"):
        read_records(tmp_path / "latin.jsonl")


def test_reading_needs_no_torch(python):
    code = "import sys, tokenreduce.tasks.records, tokenreduce.tasks.loading; assert 'torch' not in sys.modules"
    assert python("-c", code).returncode == 0


def test_batches_are_opened_when_asked_for_and_again(pictures, lines):
    names = pictures(5)
    records = read_records(
        lines([{"image": name, "text": name, "group": "g" if i else None} for i, name in enumerate(names)])
    )
    opened = []

    def prepare(images, texts):
        opened.append(list(texts))
        return {"x": torch.zeros(len(images)), "sizes": [image.size for image in images]}

    batches = RecordBatches(records, 2, prepare)
    assert len(batches) == 3 and opened == []
    assert len(batches[-1]) == 1 and opened == [[names[4]]]
    assert [len(batch) for batch in batches] == [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[0].groups == ["(no group)", "g"]
    assert batches[1].targets == (Target(names[2]), Target(names[3]))
    before = len(opened)
    last = batches[1:]
    assert len(opened) == before and len(last) == 2 and last[1].targets == (Target(names[4]),)
    assert [b.targets for b in batches[::-1]] == [b.targets for b in reversed(batches)]
    with pytest.raises(IndexError):
        batches[3]
    with pytest.raises(OptionError, match="one record or more"):
        RecordBatches(records, 0, prepare)
    with pytest.raises(OptionError, match="--data"):
        RecordBatches([], 2, prepare)


def test_a_file_that_is_not_a_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(OptionError, match=r"a\.png.*UnidentifiedImageError"):
        open_image(tmp_path / "a.png")


def test_pictures_come_upright_and_in_rgb(tmp_path):
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "p.png", transparency=bytes([200] * 256))
    assert (open_image(tmp_path / "p.png").mode, open_image(tmp_path / "p.png").getpixel((0, 0))) == (
        "RGB",
        (10, 20, 30),
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (4, 2)).save(tmp_path / "e.jpg", exif=exif)
    assert open_image(tmp_path / "e.jpg").size == (2, 4)


def test_samples_undo_the_scaling():
    scale = Scale((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    image = torch.rand(2, 3, 4, 4)
    scaled = (image - torch.tensor(scale.mean)[:, None, None]) / torch.tensor(scale.std)[:, None, None]
    one, two = samples(scaled, [Target("q", ("no", "yes", "yes")), Target()], scale)
    assert torch.allclose(one.image, image[0], atol=1e-6) and torch.allclose(two.image, image[1], atol=1e-6)
    assert (one.text, one.answer, two.answer) == ("q", "yes", "")


def test_labels_by_name_part_and_number():
    labels = Labels(["tench, Tinca tinca", "crane", "crane", "7", "cat"])
    found = [labels.index(answer, "it") for answer in ("Tench", "tench,  tinca TINCA", "4", "7", "cat")]
    assert found == [0, 0, 4, 3, 4]
    with pytest.raises(OptionError, match=r"several classes.*1, 2"):
        labels.index("crane", "it")
    with pytest.raises(OptionError, match=r"it: .*'cta'.*Did you mean 'cat'.*number"):
        labels.index("cta", "it")


def test_class_names_are_the_same_however_they_are_composed():
    assert Labels(["café", "cat"]).index("cafe\u0301", "it") == 0
