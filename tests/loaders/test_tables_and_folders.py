"""Tables and folders of pictures as data, and records with several pictures."""

import json
import shutil

import pytest
import transformers

from tokenreduce.errors import OptionError
from tokenreduce.tasks.records import read_records

from .conftest import VISION


def test_a_table_is_what_json_lines_would_be(pictures, lines, tmp_path):
    one, two = pictures(2)
    table = f'image,question,answers,choices,group\n{one},"what, now?",yes|no|yes,yes|no,g\n\n{two},why?,7,,\n'
    rows = [
        {
            "image": one,
            "question": "what, now?",
            "answers": ["yes", "no", "yes"],
            "choices": ["yes", "no"],
            "group": "g",
        },
        {"image": two, "question": "why?", "answers": ["7"]},
    ]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    (tmp_path / "a.tsv").write_text(table.replace(",", "\t").replace("what\t now", "what, now"))
    want = read_records(lines(rows))
    assert read_records(tmp_path / "a.csv") == want
    assert read_records(tmp_path / "a.tsv") == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ("image,answer\n", ["no rows", "image,answer"]),
        ("picture,answer\np.png,yes\n", ["line 1", "'image'"]),
        ("image,image\np.png,p.png\n", ["line 1", "'image'", "several times"]),
        ("image,answer\np.png\n", ["line 2", "2 values", "got 1"]),
        ("image,answer\np.png,yes,no\n", ["line 2", "got 3"]),
        ('image,answer\np.png,"yes\n', ["line 2", "table"]),
        ("image,anwser\npicture-0.png,yes\n", ["line 2", "'anwser'", "'answer'"]),
        ("image,answer\ngone.png,yes\n", ["line 2", "gone.png"]),
        ("image,answer\n,yes\n", ["line 2", "'image'"]),
    ],
)
def test_a_bad_row_is_named(pictures, tmp_path, text, words):
    pictures(1)
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(OptionError) as caught:
        read_records(tmp_path / "data.csv")
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def folder(pictures, tmp_path):
    """A folder with one folder of pictures for each of these classes."""

    def write(*classes, each=2):
        names = pictures(each)
        for name in classes:
            (tmp_path / "data" / name / "deep").mkdir(parents=True)
            for place, picture in enumerate(names):
                shutil.copy(tmp_path / picture, tmp_path / "data" / name / ("deep" if place else "") / picture)
            (tmp_path / "data" / name / "notes.txt").write_text("no picture")
        return tmp_path / "data"

    return write


def test_a_folder_gives_its_classes_by_turns(folder):
    records = read_records(folder("dog", "cat"))
    assert records.classes == ("cat", "dog")
    assert [record.answers for record in records] == [("cat",), ("dog",)] * 2
    assert all(record.image.is_file() for record in records)


def test_bad_folders_are_named(tmp_path, folder):
    with pytest.raises(OptionError, match="no folders in it"):
        read_records(tmp_path)
    root = folder("cat")
    (root / "dog").mkdir()
    with pytest.raises(OptionError, match=r"without a picture .*: dog"):
        read_records(root)


@pytest.fixture
def classifier(save):
    """A saved ViT with these classes."""

    def write(*names):
        config = transformers.ViTConfig(
            **VISION,
            image_size=32,
            patch_size=8,
            id2label=dict(enumerate(names)),
            label2id={n: i for i, n in enumerate(names)},
        )
        size = {"height": 32, "width": 32}
        return save(transformers.ViTForImageClassification(config), transformers.ViTImageProcessor(size=size))

    return write


def check(task, right):
    """The score is 1 where the likeliest class is ``right(answer)``."""
    (batch,) = task.data(10, 10)
    output = task.ask(task.model, batch.inputs)
    pairs = zip(output.logits.argmax(-1).tolist(), batch.targets, strict=True)
    assert task.metric(output, batch.targets).tolist() == [float(best == right(one.answer)) for best, one in pairs]


def test_classes_by_name(folder, classifier, load):
    task = load(classifier("dog, hound", "cat"), folder("cat", "hound"))
    check(task, lambda answer: 1 if answer == "cat" else 0)
    assert not [note for note in task.data(10, 10).notes() if "sorted order" in note]


def test_classes_by_their_order(folder, classifier, load):
    task = load(classifier("tench", "goldfish"), folder("n01440764", "n01443537"))
    check(task, lambda answer: int(answer == "n01443537"))
    (note,) = [note for note in task.data(10, 10).notes() if "sorted order" in note]
    assert "'n01440764' is class 0 ('tench')" in note


@pytest.mark.parametrize(("classes", "words"), [(("a", "b", "c"), "3 folders of classes"), (("cat", "dgo"), "'dgo'")])
def test_folders_that_fit_no_class(folder, classifier, load, classes, words):
    with pytest.raises(OptionError, match=words):
        load(classifier("cat", "dog"), folder(*classes))


def test_several_pictures_in_a_record(pictures, lines):
    one, two = pictures(2)
    (record,) = read_records(lines([{"images": [one, two], "sentence": "both", "label": "True"}]))
    assert (record.image.name, [path.name for path in record.more]) == (one, [two])
    assert (record.text, record.answers) == ("both", ("True",))
    for row, words in (
        ({"images": [one], "text": ""}, "'images'"),
        ({"images": one}, "'images'"),
        ({"image": one, "images": [one, two]}, "both"),
    ):
        with pytest.raises(OptionError, match=words):
            read_records(lines([row]))
    assert json.loads(lines([{"images": [one, two]}]).read_text())
