"""The tables of an ablation in terminals of any width: nothing is cut, no text of a result controls the terminal."""

import pytest
from rich.cells import cell_len
from rich.console import Console

from tokenreduce.lab.result import Result
from tokenreduce.report.terminal import accuracy, cost, groups, remarks

WIDTHS = (40, 60, 80, 120, 200)


def printed(result: Result, width: int) -> str:
    out = Console(width=width, highlight=False, markup=False, record=True, file=None, force_terminal=False)
    with out.capture() as captured:
        for part in (*accuracy(result, "a title", width), *cost(result, width), *groups(result, width)):
            out.print(part, "")
        for line in remarks(result):
            out.print(line)
    return captured.get()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_number_and_no_name_is_cut(full, row, width):
    full.rows += [row("a-" + "long-" * 20 + "name"), row("图像令牌合并方法实验版本二")]
    text = printed(full, width)
    assert "…" not in text and all(cell_len(line) <= width for line in text.splitlines())
    numbers = ("88.0 %", "86.0 to 90.0", "−2.0", "0.060", "270 M", "2.05 ± 0.0", "10.5 ms", "32 MiB", "2.0 GiB", "80.0")
    for words in (*numbers, "overhead", "first @ 0.2", "failed"):
        assert words in text, words
    letters = "".join(text.split())
    assert letters.count("first@0.4") >= 2 and "long-long-" in letters and "图像令牌" in letters
    if width == 200:
        assert text.count("a title") == text.count("cost (memory") == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_groups_are_rows_and_very_many_are_counted(row, width):
    names = [f"kind-{i:02d}" for i in range(65)]
    rows = [row(f"reducer-{i}", groups={name: (i + j) / 100 for j, name in enumerate(names)}) for i in range(12)]
    text = printed(Result(rows, {}), width)
    lines = text[text.index("accuracy by group") :].splitlines()
    assert all(cell_len(line) <= width for line in lines)
    tables = sum(line.startswith("kind-00 ") for line in lines)
    assert sum(line.split()[0] == "kind-39" for line in lines if line.strip()) == tables >= 1
    assert "kind-40" not in text and "and 25 more groups, which --json and --report have" in " ".join(text.split())
    found = [line for line in lines if line.startswith("kind-00 ")]
    assert " ".join(found).replace("kind-00", "").split() == [w for i in range(12) for w in (f"{i}.0", "%")]


def test_a_group_that_a_row_lacks_has_no_number(row):
    text = printed(Result([row("a", groups={"x": 0.5}), row("b", groups={"y": float("nan")})], {}), 80)
    assert [line.split() for line in text.splitlines() if line.startswith(("x ", "y "))] == [
        ["x", "50.0", "%", "–"],
        ["y", "–", "–"],
    ]


def test_hostile_text_controls_no_terminal(hostile):
    text = printed(hostile, 80)
    assert not {"\x1b", "\x00", "\u202e", "\x9b"} & set(text)
    assert "[31m" in text.replace("\n", "")  # as text


def test_empty_results():
    assert printed(Result([], {}), 80).strip().startswith("a title")
