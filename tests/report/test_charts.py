"""What charts are made of: scales, the Pareto front, labels, numbers in words."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.lab.result import Result
from tokenreduce.report.charts import against_macs, against_throughput
from tokenreduce.report.formatting import macs, number, one_line, p_value, percent, points, seconds, size
from tokenreduce.report.label_layout import place_labels
from tokenreduce.report.series import lines, pareto
from tokenreduce.report.svg import round_step, scale, tick_words
from tokenreduce.report.token_steps import courses, tokens_by_layer

LAWS = settings(deadline=None, database=None, derandomize=True, max_examples=60)
POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20)


@LAWS
@given(POINTS)
def test_nothing_beats_a_point_of_the_front_and_every_other_is_beaten(drawn):
    front = pareto(drawn, lambda a, b: a > b)
    assert front and set(front) <= set(drawn)

    def beaten(point):
        return any(o != point and o[0] >= point[0] and o[1] >= point[1] for o in drawn)

    assert set(front) == {point for point in drawn if not beaten(point)}
    assert [y for _, y in front] == sorted(y for _, y in front)


@LAWS
@given(st.lists(st.floats(-1e9, 1e9), max_size=8))
def test_a_scale_holds_its_values(values):
    made = scale(values, 10, 110)
    assert all(10 - 1e-6 <= made(value) <= 110 + 1e-6 for value in values)
    assert 2 <= len(made.ticks) <= 12 and len(set(tick_words(made.ticks))) == len(made.ticks)


def test_round_steps():
    assert [round_step(value) for value in (0.9, 1, 1.1, 3, 7, 0.03)] == [1, 1, 2, 5, 10, pytest.approx(0.05)]
    assert tick_words((0.0, 0.05, 0.1)) == ["0.00", "0.05", "0.10"]
    assert tick_words((-20.0, 0.0, 20.0)) == ["−20", "0", "20"]


def test_labels_keep_clear_of_each_other():
    room = (0.0, 0.0, 400.0, 300.0)
    spots = [(200.0, 150.0 + 3 * i) for i in range(12)]
    labels = place_labels([(f"name {i}", [spot]) for i, spot in enumerate(spots)], spots, room, 12)
    assert sum(label is not None for label in labels) >= 2
    rows = [(round(label.x), round(label.y)) for label in labels if label is not None]
    assert len(rows) == len(set(rows))
    assert place_labels([("x" * 200, [(10.0, 10.0)])], [], room, 12) == [None]


def test_charts_have_a_sign_per_row(full):
    for chart in (against_throughput(full), against_macs(full)):
        root = ET.fromstring(chart)
        signs = [e for e in root.iter() if e.tag.endswith("path") and "transform" in e.attrib]
        assert len(signs) == len(full.rows) - 1  # one failed
        assert root.attrib["role"] == "img" and root.attrib["viewBox"]
    assert against_macs(Result([], {})) == ""


def test_lines_are_told_apart_by_more_than_colour(row):
    found = lines(Result([row(f"r{i}") for i in range(24)], {}))
    assert len({(line.colour, line.sign, line.dash) for line in found}) == 24


def test_steps_follow_the_sites(full, row):
    names = [name for name, _ in tokens_by_layer(full)]
    assert names == ["random", "first", "second"]
    course = courses(row("x"), "encoder", 4)
    assert course == {"image": [(0.0, 32.0), (1.5, 32.0), (1.5, 16.0), (4.0, 16.0)]}


def test_numbers_in_words():
    assert number(-0.04, 1, sign=True) == "+0.0" and number(-1234.5, 1) == "−1,234.5" and number(None) == "–"
    assert percent(0.978) == "97.8 %" and points(-0.032) == "−3.2" and percent(float("nan")) == "–"
    assert macs(374_000_000) == "374 M" and macs(8.71e9) == "8.71 G" and macs(12) == "12"
    assert size(41 * 2**20) == "41 MiB" and size(3 * 2**30) == "3.0 GiB" and size(5) == "5 B"
    assert seconds(0.0123) == "12.3 ms" and seconds(2) == "2.00 s" and seconds(0.5) == "500 ms"
    assert p_value(0.0001) == "p < 0.001" and p_value(0.0123) == "p = 0.012" and p_value(None) == ""
    assert one_line(" a\n b\x00", 0) == "a b\ufffd" and one_line("abcdef", 4) == "abc…"
