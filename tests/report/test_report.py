"""The page: whole, alone, escaped, whatever is missing or hostile."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from tokenreduce.lab.result import BatchTiming, BreakEven, Comparison, Result, Row, SiteTokens
from tokenreduce.report.page import render_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page(HTMLParser):
    """Reads a page, checks that elements are closed in order, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(text: str) -> Page:
    """What holds of every page."""
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert ("meta", "content", POLICY) in page.attributes
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href", "srcset", "poster", "action", "background"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "an id stands twice"
    for tag, name, value in page.attributes:
        if (name == "href" and value.startswith("#")) or name == "aria-labelledby":
            assert value.removeprefix("#") in ids, (tag, value)
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ET.fromstring(svg)
    svgs = [dict(attributes) for tag, attributes in _elements(text) if tag == "svg"]
    assert all(found.get("aria-label") or found.get("aria-hidden") == "true" for found in svgs)
    text.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
    return page


def _elements(text):
    found = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, attrs))

    Elements().feed(text)
    return found


def test_a_full_page(full):
    page = check(render_report(full))
    for words in (
        "tokenreduce ablate --model 'a model'",
        "Verdicts",
        "beats random: +3.0 points",
        "pays from 40 image tokens on",
        "88.0 %",
        "86.0 to 90.0",
        "p = 0.060",
        "300 M",
        "100 %",
        "2.05 ×",
        "32 MiB",
        "2.0 GiB",
        "2.0 %",
        "10.5 ms",
        "No result: UnfitReducerError: not here",
        "mean score",
        "a remark",
        "a note",
        "(wrong)",
        "(right)",
        "Pareto front",
        "what is it",
    ):
        assert words in page.text, words
    for row in full.rows:
        assert row.name in page.text and row.role in page.text
    assert page.tags.count("image") == 1  # the image stands once, and is used again
    used = [value for tag, name, value in page.attributes if tag == "use" and value.startswith("#picture")]
    assert used == ["#picture-0-0"] * 3


def test_verdicts_come_first_and_facts_are_folded(full):
    text = render_report(full)
    places = [text.index(f'id="{name}"') for name in ("verdicts", "table", "charts", "pictures", "definitions")]
    assert places == sorted(places)
    assert "<details open" not in text
    folded = "".join(re.findall(r"<details.*?</details>", text, re.S))
    assert "tokenreduce ablate --model" in folded and "somewhere.Model" in folded and "mean score" in folded
    assert "beats random: +3.0 points" not in re.sub(r"<details.*?</details>", "", text[: places[0]], flags=re.S)


def test_a_phone_shows_every_number_with_its_name(full):
    text = render_report(full)
    cells = [dict(attributes) for tag, attributes in _elements(text) if tag == "td"]
    assert cells and all((cell.get("data-name") or "").strip() or cell.get("class") == "failed" for cell in cells)
    names = {cell["data-name"].strip() for cell in cells if "data-name" in cell}
    assert {"accuracy, 95\N{NO-BREAK SPACE}%", "Speed-up batch 8", "Memory, batch 8 training", "overhead"} <= names
    phone = text[text.index("@media (max-width: 640px)") :]
    assert "content: attr(data-name)" in phone and "thead { display: none; }" in phone


def test_groups_are_rows(full):
    text = render_report(full)
    table = text[text.index("Accuracy by group of samples</summary>") :]
    table = table[: table.index("</table>")]
    assert re.findall(r'<th scope="row">(\w+)</th>', table) == ["easy", "hard"]
    assert table.count("<td") == 2 * (len(full.rows) - 1)


def test_light_and_dark_themes_set_every_colour_in_use(full):
    text = render_report(full)
    style = text[text.index("<style>") : text.index("</style>")]
    bright, dark = re.findall(r":root \{(.*?)\}", style, re.S)
    for variables in (bright, dark):
        assert {name for name, _ in re.findall(r"var\((--[\w-]+)(,|\))", text)} <= set(
            re.findall(r"(--[\w-]+):", variables)
        )


def test_hostile_text_stays_text(hostile):
    text = render_report(hostile)
    page = check(text)
    assert "<script" not in text and "alert('1')" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert "<script>alert('1')</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert "😀" in page.text and "\x1b" not in page.text and "\u202e" not in page.text


def test_charts_escape_names(hostile):
    text = render_report(hostile)
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        root = ET.fromstring(svg)
        assert not {element.tag.rpartition("}")[2] for element in root.iter()} - {
            *("svg", "title", "path", "text", "g", "image", "use", "defs", "clipPath", "rect"),
        }


def test_empty_results():
    page = check(render_report(Result([], {})))
    assert "0 rows" in page.text
    page = check(render_report(Result([Row("only")], {})))
    assert "only" in page.text
    page = check(render_report(Result([Row("a", failed="why"), Row("b", failed="")], {})))
    assert "No result: why" in page.text and "No result: no reason given" in page.text


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Row) if field.name != "name"])
def test_each_field_may_be_missing(full, name):
    empty = getattr(Row("x"), name)
    for row in full.rows:
        setattr(row, name, empty)
    check(render_report(full))


@pytest.mark.parametrize(
    "missing", ["pictures", *(["model", "data", "command", "definitions", "versions", "notes", "baseline"])]
)
def test_each_part_of_the_setup_may_be_missing(full, missing):
    if missing == "pictures":
        full.pictures = []
    else:
        del full.setup[missing]
    check(render_report(full))


@pytest.mark.parametrize(
    "odd",
    [
        {
            "accuracy": float("nan"),
            "macs_share": float("inf"),
            "overhead": float("nan"),
            "interval": (float("nan"), 1.0),
        },
        {"paces": [BatchTiming(1, [], []), BatchTiming(2, [0.0], [0.0]), BatchTiming(3, [1.0], [1.0, 2.0])]},
        {"break_even": BreakEven(1, [])},
        {"break_even": BreakEven(1, [(5, 0.5, 0.1)])},
        {"versus_baseline": Comparison("", float("nan"), 0, 0, float("nan"), "")},
        {"sites": [SiteTokens("a", 0, "text+image", 0, 0)], "macs": 0, "tokens": 0},
        {"accuracy": 0.0, "interval": (0.0, 0.0), "macs": 10**15},
        {"ratio": 0.5, "target_macs": 0.5, "input_size": (24, 32)},
        {"sites": [SiteTokens("a", 0, "image", 10**400, 3)], "ratio": 1e308, "interval": (-1e308, 1e308)},
        {"role": "baseline"},
        {"role": "control"},
        {"name": "", "variant": ""},
    ],
)
def test_odd_values(row, odd):
    made = [row(f"r{i}") for i in range(2)]
    for one in made:
        for name, value in odd.items():
            setattr(one, name, value)
    text = render_report(Result(made, {"model": "net", "data": None, "definitions": "as usual", "notes": 3}))
    page = check(text)
    assert "nan" not in page.text and "inf" not in page.text.replace("inference", "")


def test_forty_lines_of_many_rows(row):
    rows = [
        row(f"v{i} @ {r}", variant=f"v{i}", ratio=r / 50, accuracy=0.5 + i / 100) for i in range(40) for r in range(9)
    ]
    check(render_report(Result(rows, {})))


def test_a_result_from_json_looks_the_same(full):
    assert render_report(Result.from_json(full.to_json())) == render_report(full)


def test_without_jinja2_it_says_what_to_install(full, monkeypatch):
    import sys

    from tokenreduce.errors import PluginError

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(PluginError, match=r"pip install 'tokenreduce\[lab\]'"):
        render_report(full)


def test_without_matplotlib_it_says_what_to_install(picture, monkeypatch):
    import sys

    from tokenreduce.errors import PluginError
    from tokenreduce.report.figure import draw

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PluginError, match=r"pip install 'tokenreduce\[lab\]'"):
        draw(picture())
