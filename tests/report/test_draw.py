"""Pictures as PNG and as SVG, letters of any script in them."""

import base64
import dataclasses
import io
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from tokenreduce.errors import OptionError
from tokenreduce.report.figure import draw
from tokenreduce.report.fonts import families
from tokenreduce.report.sample_pictures import group_by_sample
from tokenreduce.report.sample_view import png, view_sample

NASTY = "<script>$x_1$ \\frac{1 \x00\x1b \ud800 😀 漢字 " + "long words " * 40


def test_a_drawing_is_a_png_of_sane_size(picture):
    data = draw(picture())
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert 1000 < image.width < 3000 and 400 < image.height < 3000
    assert len(data) < 2_000_000


@pytest.mark.parametrize("grid", [(1, 1), (24, 24), (1, 40), (40, 1)])
def test_grids_of_any_shape(picture, grid):
    count = grid[0] * grid[1]
    shape = torch.zeros(3, 4 * grid[0], 4 * grid[1])
    for owner in ([-1] * count, [0] * count, list(range(count)), [i // 3 for i in range(count)]):
        with Image.open(io.BytesIO(draw(picture(grid=grid, owner=owner, image=png(shape))))) as image:
            assert image.width < 4000 and image.height < 4000


def test_text_is_drawn_as_it_is(picture):
    assert draw(picture(NASTY, text=NASTY, expected=NASTY, before=NASTY, after=NASTY))
    assert draw(picture("", text="", expected="", before="", after=""))


def test_dropped_patches_are_dimmed_and_kept_ones_are_not(picture):
    red = png(torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 8, 16))
    with Image.open(io.BytesIO(draw(picture(text="", grid=(1, 2), owner=[-1, 3], image=red)))) as image:
        pixels = image.convert("RGB")
        middle = pixels.height // 3
        gone, kept = (pixels.getpixel((round(pixels.width * at), middle)) for at in (0.6, 0.9))
    assert kept == (255, 0, 0)
    assert max(gone) - min(gone) < 80 and min(gone) > 80


@pytest.mark.parametrize("fields", [{"image": "no base64!"}, {"image": "AAAA"}, {"owner": [1]}, {"grid": (0, 0)}])
def test_what_cannot_be_drawn_is_an_error(picture, fields):
    with pytest.raises(OptionError, match=r"PNG|owners"):
        draw(picture(**fields))


def test_small_pictures_are_enlarged_pixel_by_pixel():
    image = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    with Image.open(io.BytesIO(base64.b64decode(png(image)))) as made:
        assert made.size == (384, 256)
        assert len(made.convert("RGB").getcolors()) == 6
    with Image.open(io.BytesIO(base64.b64decode(png(torch.zeros(3, 300, 700))))) as made:
        assert made.size == (700, 300)
    with Image.open(io.BytesIO(base64.b64decode(png(torch.zeros(3, 100, 100), (0.5, 1.0))))) as made:
        assert made.size == (400, 200)
    with pytest.raises(OptionError, match="3, H, W"):
        png(torch.zeros(1, 4, 4))


def test_viewing_a_sample_leaves_the_model_unchanged(embedded, snapshot):
    task = embedded("vilt-digits")
    (batch,) = task.data(1, 1)
    (sample,) = task.samples(batch)
    before = snapshot(task.model)
    made = view_sample(
        task, batch.inputs, sample, "dropped", "random", {"keep": 0.5, "layers": [2]}, {"reducer": "none"}
    )
    assert snapshot(task.model) == before
    assert made.row == "dropped" and made.text == sample.text and made.expected == sample.answer
    assert made.grid == (12, 12) and len(made.owner) == 144
    assert abs(made.owner.count(-1) - 72) <= 1
    assert made.before and made.after
    without = view_sample(dataclasses.replace(task, answers=None), batch.inputs, sample, "dropped", "none")
    assert (without.before, without.after) == ("", "")


def test_pictures_of_one_sample_stand_together(picture):
    other = png(torch.zeros(3, 8, 8))
    made = [picture(row, text=text) for row in ("a", "b") for text in ("one", "two")] + [
        picture("c", text="one", image=other)
    ]
    samples = group_by_sample(made)
    assert [[v.picture.row for v in sample.views] for sample in samples] == [["a", "b", "c"], ["a", "b"]]
    images = [name for sample in samples for name, _, _ in sample.images]
    assert len(images) == len(set(images)) == 3
    for sample in samples:
        own = {name for name, _, _ in sample.images}
        for view in sample.views:
            root = ET.fromstring(view.svg)
            used = [e.attrib["href"] for e in root.iter() if e.tag.endswith("use")]
            assert len(used) == 1 and used[0].removeprefix("#") in own
            assert not [e for e in root.iter() if "id" in e.attrib]
            assert view.counts in root.attrib["aria-label"]


def test_a_view_has_the_shape_of_its_image_and_few_elements(picture):
    owner = [-1] * 300 + [3] * 300 + list(range(4, 304))
    (sample,) = group_by_sample([picture(grid=(30, 30), owner=owner, image=png(torch.zeros(3, 60, 120)))])
    root = ET.fromstring(sample.views[0].svg)
    assert root.attrib["viewBox"] == "0 0 200 100" and sample.images[0][2] == 100
    assert len(list(root.iter())) < 60 and len(sample.views[0].svg) < 120_000


def test_what_cannot_be_drawn_says_so_among_the_others(picture):
    (sample,) = group_by_sample([picture("good"), picture("bad", owner=[1])])
    assert [bool(view.svg) for view in sample.views] == [True, False] and len(sample.images) == 1


def test_letters_come_from_whatever_font_has_them():
    assert families("plain text, é") == ["DejaVu Sans"]
    assert families("\ue0f0\U000e0101") == ["DejaVu Sans"]  # nobody has these
    found = families("a \u2aff")  # a sign of mathematics that comes with matplotlib, in another font
    assert found[0] == "DejaVu Sans"
    chinese = families("漢字かな")
    assert len(chinese) == 1 or "DejaVu" not in chinese[1]


def test_letters_without_any_font_give_no_warning(picture, recwarn):
    assert draw(picture(text="\ue0f0 漢字 한국어 עברית 😀", after="\U000e0101"))
    assert not recwarn.list
