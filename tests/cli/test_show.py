"""``tokenreduce show`` as a user types it."""

import io

import pytest

Image = pytest.importorskip("PIL.Image")


def test_a_held_out_sample(run, tmp_path):
    out = tmp_path / "sample.png"
    done = run("show", "--sample", "2", "--reducer", "tome", "--set", "r=9", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for words in (
        "text: ",
        "right answer: ",
        "before: ",
        "after: ",
        "ToMe(r=9",
        "145 → 136",
        "144 to 36 tokens",
        str(out),
    ):
        assert words in done.stdout, words
    with Image.open(io.BytesIO(out.read_bytes())) as image:
        assert image.format == "PNG" and image.width > 1000


def test_a_users_own_picture_and_a_reducer_per_stack(run, tmp_path):
    photo, out = tmp_path / "photo.jpg", tmp_path / "seen.png"
    Image.new("RGB", (300, 200), (30, 120, 200)).save(photo)
    stacks = '{"cross": "pumer", "vision": {"reducer": "tome", "r": 20}}'
    done = run(
        *("show", str(photo), "--text", "what unicorn is red", "--model", "meter-digits", "--reducer", stacks),
        *("--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    assert "text: what unicorn is red" in done.stdout and "right answer" not in done.stdout
    assert "vision" in done.stdout and "cross" in done.stdout and "gone" in done.stdout
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["--sample N", "one of them"]),
        (["x.png", "--sample", "1"], ["one of them"]),
        (["no-such.png"], ["no file", "no-such.png"]),
        (["--sample", "-1"], ["from 0"]),
        (["--sample", "1", "--text", "x"], ["--text"]),
        (["--sample", "0", "--out", "no/such/folder/x.png"], ["folder", "no/such"]),
        (["--sample", "0", "--out", "x.pdf"], ["FILE.png"]),
        (["--sample", "0", "--set", "r"], ["OPTION=VALUE"]),
        (["--sample", "0", "--layers", "two"], ["2,5,8"]),
        (["--sample", "0", "--model", "vilt-digit"], ["'vilt-digits'"]),
        (["--sample", "0", "--set", "reducer=evit"], ["--reducer"]),
    ],
)
def test_wrong_use_says_what_to_type(run, args, words):
    done = run("show", *args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture
def main(capsys, monkeypatch, tmp_path):
    """The command in this process, for what only comes up once the model is loaded."""
    from tokenreduce.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*args):
        code = main(["show", *args])
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--sample", "0", "--reducer", "tomm"], ["'tomm'", "'tome'"]),
        (["--sample", "0", "--reducer", "tome", "--set", "q=1"], ["no option 'q'"]),
        (["--sample", "0", "--reducer", '{"encoder"'], ["JSON"]),
        (["--sample", "0", "--reducer", '{"vision": "tome"}'], ["vision", "encoder"]),
        (["--sample", "0", "--reducer", '{"encoder": "tome"}', "--set", "r=1"], ["inside"]),
        (["--sample", "0", "--layers", "99"], ["layer 99"]),
        (["--sample", "0", "--data", "x.jsonl"], ["--data"]),
        (["text.png"], ["picture at text.png"]),
        (["picture.png", "--model", "clip-digits", "--text", "x"], ["leave the text out"]),
        (["picture.png", "--text", "one two three four five six seven eight nine"], ["at most 8 words"]),
    ],
)
def test_wrong_use_found_later_says_what_to_type(main, tmp_path, args, words):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (9, 9)).save(tmp_path / "picture.png")
    code, said = main(*args)
    assert code == 2
    for word in words:
        assert word in said


def test_a_task_that_shows_nothing_says_so(embedded, tmp_path):
    import dataclasses

    import tokenreduce
    from tokenreduce.report.sample_source import sample_from_file, sample_from_task

    task = embedded("clip-digits")
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "red.png")
    with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="prepare"):
        sample_from_file(dataclasses.replace(task, prepare=None), tmp_path / "red.png", "")
    with pytest.raises(tokenreduce.errors.UnsupportedCallError, match="picture instead"):
        sample_from_task(dataclasses.replace(task, samples=None), 0)
    few = dataclasses.replace(task, data=lambda samples, batch: task.data(min(samples, 2), batch))
    with pytest.raises(tokenreduce.errors.OptionError, match="2 samples"):
        sample_from_task(few, 5)
    _, sample = sample_from_file(dataclasses.replace(task, samples=None), tmp_path / "red.png", "")
    assert sample.image.shape == (3, 48, 48) and sample.image[0].min() == 1 and sample.image[1].max() == 0
