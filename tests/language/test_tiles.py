"""Images of several tiles: what an integer counts, which tokens stay, and both counts in the handle."""

from functools import lru_cache

import pytest
import torch

import tokenreduce

from . import tinies
from .oracle import recompute, visible, write

TILES = {"llava_next": 3, "llava_onevision": 3, "internvl": 2}
"""Families, with the tiles of the larger picture of :func:`sizes`."""


@lru_cache
def made(name):
    return tinies.ALL[name]().double()


@pytest.fixture(params=list(TILES))
def family(request):
    """The name of a family."""
    return request.param


@pytest.fixture
def tiny(family):
    """A model that the tests of this file share: each leaves it as it was."""
    return made(family)


def large(tiny, family):
    """A picture of several tiles."""
    return tiny.other if family == "internvl" else tiny.size


def columns_of(tiny, family):
    """Columns of the picture's tokens in a prompt of one, tile by tile, and of the separators."""
    first = 3 + len(tiny.around[0])
    places, count = tiny.columns(large(tiny, family))
    mine = [first + place for place in places]
    others = sorted(set(range(first, first + count)) - set(mine))
    if family == "internvl":
        return [mine[:16], mine[16:]], others
    whole, rows = mine[:16], torch.tensor(mine[16:]).view(4, 8)
    return [whole, rows[:, :4].flatten().tolist(), rows[:, 4:].flatten().tolist()], others


def test_an_integer_is_of_an_image_or_of_each_tile(tiny, family):
    given, tiles = tiny.batch([[large(tiny, family)]]), TILES[family]
    columns, separators = columns_of(tiny, family)
    everything = set(range(given["input_ids"].shape[1]))
    text = everything - {column for tile in columns for column in tile}
    for unit, kept in (("image", 6), (None, 6), ("tile", 6 * tiles), ("sample", 6)):
        with tokenreduce.attach(tiny.model, "random", keep=6, unit=unit, trace=True) as handle, torch.no_grad():
            tiny.model(**given)
            (seen,) = {frozenset(layer) for layer in visible(handle.last.trace)}
            assert text <= seen and len(seen - text) == kept, "text and separators stay"
            if unit == "tile":
                assert [len(seen & set(tile)) for tile in columns] == [6] * tiles
            pieces = handle.last.pieces
            assert (pieces.images, pieces.tiles, pieces.separators) == (1, tiles, len(separators))
            assert (pieces.before, pieces.after) == (sum(map(len, columns)), kept)
            assert (pieces.per_image, pieces.per_tile) == (kept, kept / tiles)
            assert f"→ {kept} of an image" in str(handle) and f"→ {kept / tiles:.4g} of a tile" in str(handle)
            assert ("separators stay" in str(handle)) is bool(separators)


@pytest.mark.parametrize("stack", ["handover", "language"])
def test_tiles_one_by_one_equal_a_recompute_and_each_alone(tiny, family, stack):
    options = {} if stack == "handover" else {"layers": [1]}
    plan = {stack: {"reducer": "random", "keep": 5, **options}}
    other = tiny.size if family == "internvl" else tiny.other
    sizes, tails = [[large(tiny, family)], [other, large(tiny, family)], []], [5, 6, 7]
    with tokenreduce.attach(tiny.model, plan, unit="tile", trace=True) as handle:
        together = write(tiny.model, tiny.batch(sizes, tails=tails, seeds=[3, 4, 5]))[1]
        pieces = handle.last.pieces
        assert pieces.images == 3 and pieces.after == 5 * pieces.tiles
        for b, (images, tail) in enumerate(zip(sizes, tails, strict=True)):
            alone = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[3 + b]))[1]
            torch.testing.assert_close(alone[0], together[b], atol=1e-6, rtol=1e-6)
        given = tiny.batch(sizes[:1], tails=tails[:1], seeds=[3])
        ids, logits, _ = write(tiny.model, given)
        seen = visible(handle.last.trace)
    torch.testing.assert_close(logits, recompute(tiny.model, given, ids, seen), atol=1e-6, rtol=1e-6)


def test_tiles_that_were_reduced_before(tiny, family):
    plan = {
        "handover": {"reducer": "random", "keep": 8},
        "language": {"reducer": "evit", "layers": [0, 2], "keep": 0.5, "fuse": False},
    }
    with tokenreduce.attach(tiny.model, plan, unit="tile") as handle, torch.no_grad():
        tiny.model(**tiny.batch([[large(tiny, family)]]))
        assert handle.last.image_tokens == [count * TILES[family] for count in (8, 4, 4, 2)]


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_tiles_of_an_image_are_told_by_the_token_before_them(tiny):
    """Two images: two tiles (104, 105 before them) and the whole (102); the whole alone."""
    tile = torch.full((16,), tinies.IMAGE)
    text = torch.tensor([5, 9, 11])
    marks = [104, 105, 102, 102]
    ids = torch.cat([text, *(torch.cat([torch.tensor([mark]), tile]) for mark in marks), text])[None]
    pixels = torch.randn(1, 4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for unit, kept in (("image", 2), ("tile", 4), ("sample", 1)):
        with tokenreduce.attach(tiny.model, "random", keep=7, unit=unit) as handle, torch.no_grad():
            tiny.model(input_ids=ids, pixel_values=pixels)
            pieces = handle.last.pieces
            assert (pieces.images, pieces.tiles, pieces.before, pieces.after) == (2, 4, 64, 7 * kept)


@pytest.mark.parametrize("family", ["internvl"])
def test_a_picture_of_one_tile_is_one_unit(tiny):
    with tokenreduce.attach(tiny.model, "random", keep=6, unit="tile") as handle, torch.no_grad():
        tiny.model(**tiny.inputs(images=2))
        assert (handle.last.pieces.per_image, handle.last.pieces.per_tile) == (6, 6)
