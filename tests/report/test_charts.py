"""What charts are made of: lines, the Pareto front, names that hide nothing, SVG that a page can hold."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.lab.result import Result
from tokenreduce.report.canvas import LINES, VARIABLES, inline_svg, look, new_figure, say
from tokenreduce.report.charts import against_macs, against_throughput, courses, swatch, tokens_by_layer
from tokenreduce.report.labels import write_names
from tokenreduce.report.series import lines, pareto

LAWS = settings(deadline=None, database=None, derandomize=True, max_examples=60)
POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20)


def all_drawings(result):
    swatches = [swatch(line, f"swatch-{i}") for i, line in enumerate(lines(result))]
    return [against_throughput(result), against_macs(result), *swatches, *(svg for _, svg in tokens_by_layer(result))]


@LAWS
@given(POINTS)
def test_nothing_beats_a_point_of_the_front_and_every_other_is_beaten(drawn):
    front = pareto(drawn, lambda a, b: a > b)
    assert front and set(front) <= set(drawn)

    def beaten(point):
        return any(o != point and o[0] >= point[0] and o[1] >= point[1] for o in drawn)

    assert set(front) == {point for point in drawn if not beaten(point)}
    assert [y for _, y in front] == sorted(y for _, y in front)


@settings(LAWS, max_examples=12)
@given(POINTS)
def test_names_hide_no_marker_and_no_other_name(points):
    with look():
        figure = new_figure(400, 300)
        axes = figure.add_subplot()
        axes.plot(*zip(*points, strict=True), "o")
        wanted = [(f"name {i}", "#000000", [point]) for i, point in enumerate(points)]
        written = write_names(axes, wanted, points)
        assert len(written) == len(points) and written[0] is not None
        figure.draw_without_rendering()
        boxes = [name.get_window_extent() for name in written if name is not None]
        room = axes.get_window_extent()
        for place, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:place])
            assert room.x0 <= box.x0 < box.x1 <= room.x1 and room.y0 <= box.y0 < box.y1 <= room.y1
            assert not any(box.contains(*point) for point in axes.transData.transform(points))
        assert write_names(axes, [("x" * 200, "#000000", points)], points) == [None]


def test_charts_have_a_marker_per_row_and_say_what_it_is(full):
    for chart in (against_throughput(full), against_macs(full)):
        root = ET.fromstring(chart)
        said = [e.text for e in root.iter("{http://www.w3.org/2000/svg}title")]
        assert len(said) == len(full.rows) - 1  # one failed
        assert "first @ 0.2: 86.0 % 84.0 to 88.0" in said
        assert root.attrib["role"] == "img" and root.attrib["viewBox"] and root.attrib["aria-label"]
        names = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"none", "random", "accuracy (%)"} <= set(names)  # text is text
    assert against_macs(Result([], {})) == ""


def test_drawings_can_stand_in_one_page(full):
    drawings = all_drawings(full)
    assert drawings == all_drawings(full)  # no date, no draw
    ids = [found for svg in drawings for found in re.findall(r' id="([^"]*)"', svg)]
    assert ids and len(ids) == len(set(ids))
    for svg in drawings:
        own = set(re.findall(r' id="([^"]*)"', svg))
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', svg)) == own
        assert "<style" not in svg and "metadata" not in svg and "DOCTYPE" not in svg and "DejaVu" not in svg


def test_every_colour_follows_the_page(full):
    for svg in all_drawings(full):
        bare = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
        assert not re.search(r"#[0-9a-f]{6}\b(?!\d)", re.sub(r'(href="|url\(|id=")#?\w+', "", bare))
    assert len(set(VARIABLES.values())) == len(VARIABLES) == len(LINES) + 4


def test_words_of_a_result_stay_words():
    nasty = "<b>&\"' $x_1$ #0b62a8 \x1b[31m \ud800 </title></svg>"
    with look():
        figure = new_figure(100, 100)
        figure.text(0, 0, "$\\frac{1 #0b62a8 </text>")
        figure.add_subplot().plot([1, 2], gid=say(nasty))
        root = ET.fromstring(inline_svg(figure, nasty, "key"))
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "$\\frac{1 #0b62a8 </text>" in texts
    title = next(e.text for e in root.iter("{http://www.w3.org/2000/svg}title"))
    assert title == root.attrib["aria-label"] == "<b>&\"' $x_1$ #0b62a8 \ufffd[31m \ufffd </title></svg>"


def test_the_users_own_settings_change_nothing(full):
    import matplotlib

    before = against_macs(full)
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert against_macs(full) == before
        assert matplotlib.rcParams["text.usetex"]


@pytest.mark.parametrize("odd", [1e300, 1e-300, -5.0, float("nan"), 10**400])
def test_numbers_that_no_chart_can_hold_are_left_out(row, odd):
    rows = [row("plain", variant="plain"), row("odd", variant="odd", accuracy=0.5, macs=odd, interval=(odd, odd))]
    for chart in (against_macs(Result(rows, {})), against_throughput(Result(rows, {}))):
        assert "plain: 90.0 %" in chart


def test_lines_are_told_apart_by_more_than_colour(row):
    found = lines(Result([row(f"r{i}") for i in range(24)], {}))
    assert len({(line.colour, line.marker, str(line.dash)) for line in found}) == 24


def test_steps_follow_the_sites(full, row):
    drawings = dict(tokens_by_layer(full))
    assert list(drawings) == ["random", "first", "second"]
    assert "first @ 0.6, image: 32 to 16 tokens" in drawings["first"]
    course = courses(row("x"), "encoder", 4)
    assert course == {"image": [(0.0, 32.0), (1.5, 32.0), (1.5, 16.0), (4.0, 16.0)]}
