"""Methods at the hand-over to a language model: published outputs, slow oracles, laws, and what is at the edges."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.ops import grid_cells

from . import handover_oracle as oracle
from .reference_checks.handover import reduced

DATA = Path(__file__).parents[1] / "data" / "lvlm"
CASES = ("cdpruner", "dart", "divprune", "fastv", "scope", "sparsevlm_v1", "visionzip", "vispruner")
CHOOSE = ("divprune", "cdpruner", "vispruner", "scope", "uniform")
ALL = (*CHOOSE, "visionzip", "pooling")
ENERGY = tokenreduce.Budget.energy(0.8, cap=20).to_json()


def test_published_outputs(python, tmp_path):
    """All cases at once; one that is not as published is told, and one that nothing is known of."""
    for name in CASES:
        for path in (DATA / f"{name}.json", DATA / f"{name}.safetensors"):
            shutil.copy(path, tmp_path / path.name)
    for name in ("scope_b", "stranger"):
        shutil.copy(DATA / "scope.safetensors", tmp_path / f"{name}.safetensors")
    spoiled = json.loads((DATA / "scope.json").read_text())
    spoiled["params"]["alpha"] = 0.0
    (tmp_path / "scope_b.json").write_text(json.dumps(spoiled))
    (tmp_path / "stranger.json").write_text("{}")
    done = python(Path(__file__).parent / "check_reference.py", tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 1, done.stdout + done.stderr
    for name in CASES:
        assert f"{name}: equal\n" in done.stdout
    assert "8 of 10 cases equal" in done.stdout and "no check for this stem" in done.stdout
    assert "scope_b: differs\n  order of choice, row 0: [" in done.stdout


def image(length, seed, width=12):
    """Features, attention, keys and cosines to two texts of one image."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, 3, generator=generator) @ torch.randn(3, width, generator=generator)
    x = x + 0.3 * torch.randn(length, width, generator=generator)
    attention = torch.randn(length, generator=generator).softmax(dim=0)
    keys = torch.randn(length, 6, generator=generator)
    return {"x": x, "class_attention": attention, "keys": keys, "text_cosine": keys[:, :2].sin()}


def batch(*images):
    parts = {name: torch.stack([one[name] for one in images]) for name in images[0]}
    return parts.pop("x"), {**parts, "encoder_features": parts["keys"].new_zeros(len(images), 0, 0)}


def chosen(name, images, **options):
    """Indices that stay, for each image."""
    x, signals = batch(*images)
    del signals["encoder_features"]
    reduction = reduced(name, x, signals, **options)
    return [kept[: int(n)].tolist() for kept, n in zip(reduction.keep, reduction.counts(), strict=True)]


@pytest.mark.parametrize(("length", "keep"), [(40, 13), (17, 16), (65, 5), (30, 1), (9, 9)])
def test_choices_are_those_of_plain_loops(length, keep):
    images = [image(length, seed) for seed in range(3)]
    for index, one in enumerate(images):
        wanted = {
            ("divprune",): oracle.divprune(one["x"], keep),
            ("cdpruner",): oracle.cdpruner(one["x"], min(keep, 9), one["text_cosine"]),
            ("scope",): oracle.scope(one["x"], one["class_attention"], keep),
            ("scope", "alpha", 0.5): oracle.scope(one["x"], one["class_attention"], keep, 0.5),
            ("vispruner",): oracle.vispruner(one["x"], one["class_attention"], keep, 0.5),
            ("vispruner", "important", 0.2): oracle.vispruner(one["x"], one["class_attention"], keep, 0.2),
            ("vispruner", "important", 1.0): one["class_attention"].topk(keep).indices.tolist(),
        }
        for (name, *option), expected in wanted.items():
            got = chosen(name, images, keep=len(expected), **dict([option] if option else []))
            assert got[index] == sorted(expected), (name, option)


def test_diversity_alone_is_the_plain_process():
    images = [image(24, seed) for seed in range(2)]
    for got, one in zip(chosen("cdpruner", images, keep=7, relevance="none"), images, strict=True):
        assert got == sorted(oracle.cdpruner(one["x"], 7))
    alike = [{**one, "text_cosine": torch.full((24, 2), 0.3)} for one in images]  # published: 0 / 0
    assert chosen("cdpruner", alike, keep=7) == chosen("cdpruner", images, keep=7, relevance="none")


@pytest.mark.parametrize(("keep", "contextual"), [(12, 4), (12, 0), (12, 11), (3, 2), (24, 5)])
def test_visionzip_merges_as_plain_loops_do(keep, contextual):
    images = [image(30, seed) for seed in range(3)]
    x, signals = batch(*images)
    del signals["encoder_features"]
    reduction = reduced("visionzip", x, signals, keep=keep, contextual=contextual)
    for got, one in zip(reduction.apply(x), images, strict=True):
        wanted = oracle.visionzip(one["x"], one["class_attention"], one["keys"], keep - contextual, contextual)
        torch.testing.assert_close(got, wanted)


def test_visionzip_in_front_of_the_projector():
    images = [image(30, seed) for seed in range(2)]
    x, signals = batch(*images)
    seen = torch.stack([one["keys"] * 3 for one in images])
    own = torch.full((2, 1, 6), 0.5)
    signals |= {"encoder_features": seen, "class_features": own, "projector": lambda tokens: tokens[..., :2].square()}
    for class_token in (True, False):
        options = {"keep": 9, "contextual": 3, "class_token": class_token}
        left = reduced("visionzip", x, signals, **options).apply(x[..., :2])
        for got, one in zip(left, images, strict=True):
            dominant = 5 if class_token else 6
            inside = oracle.visionzip(one["keys"] * 3, one["class_attention"], one["keys"], dominant, 3).square()
            first = [torch.full((1, 2), 0.25)] if class_token else []
            merged = torch.cat([*first, inside[:, :2]])
            rows = slice(1, 1 + dominant) if class_token else slice(0, dominant)
            torch.testing.assert_close(got[rows.stop :], merged[rows.stop :])
            if class_token:
                torch.testing.assert_close(got[:1], merged[:1])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("keep", [0.3, ENERGY], ids=["share", "rule"])
def test_an_image_is_judged_alone(name, keep):
    """Neighbours, and how many tokens they keep, never matter; a rule gives each image its own number."""
    images = [image(28, seed) for seed in range(4)]
    images[3] = {**images[3], "x": images[3]["x"][:1].expand(28, -1).clone()}  # one direction: one token is enough

    def left(part):
        x, signals = batch(*part)
        del signals["encoder_features"]
        reduction = reduced(name, x, signals, keep=keep)
        return [out[: int(n)] for out, n in zip(reduction.apply(x), reduction.counts(), strict=True)]

    together = left(images)
    for index, expected in enumerate(together):
        torch.testing.assert_close(left([images[index]])[0], expected, atol=1e-5, rtol=1e-5)
    for got, expected in zip(left(images[::-1]), together[::-1], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (len(set(map(len, together))) > 1) == (keep == ENERGY)


def test_relevance_over_the_batch_is_an_option():
    near, far = image(20, 0), image(20, 1)
    far = {**far, "text_cosine": far["text_cosine"] * 0.01 - 5}
    alone = chosen("cdpruner", [near], keep=6)
    assert chosen("cdpruner", [near, far], keep=6)[0] == alone[0]
    assert chosen("cdpruner", [near], keep=6, relevance_scope="batch") == alone
    assert chosen("cdpruner", [near, far], keep=6, relevance_scope="batch")[1] != chosen("cdpruner", [far], keep=6)[0]


@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["all zero", "all equal"])
def test_of_equal_tokens_the_first_stay(scale):
    same = {"x": torch.full((12, 4), scale), "class_attention": torch.full((12,), 1 / 12)}
    same |= {"keys": torch.full((12, 4), scale), "text_cosine": torch.full((12, 1), scale)}
    for name in ("divprune", "cdpruner", "scope"):
        assert chosen(name, [same], keep=5) == [[0, 1, 2, 3, 4]], name
    assert chosen("vispruner", [same], keep=6, important=1.0) == [[0, 1, 2, 3, 4, 5]]
    kept = chosen("vispruner", [same], keep=6)[0]
    assert kept[:3] == [0, 1, 2] and len(set(kept)) == 6
    x, signals = batch(same)
    del signals["encoder_features"]
    assert torch.isfinite(reduced("visionzip", x, signals, keep=6).apply(x)).all()


def test_duplicates_are_taken_when_nothing_else_is_left():
    one = image(10, 3)
    twice = {name: torch.cat([side, side]) for name, side in one.items()}
    for name in ("divprune", "cdpruner"):
        got = chosen(name, [twice], keep=10)[0]
        assert sorted(i % 10 for i in got) == list(range(10)) and all(i < 10 for i in got), name
        assert len(set(chosen(name, [twice], keep=15)[0])) == 15
    short = {**one, "x": torch.eye(4)[torch.arange(10) % 4]}  # rank 4
    got = chosen("cdpruner", [short], keep=7, relevance="none")[0]
    assert set(range(4)) <= set(got) and len(got) == 7


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "scope"])
def test_fewer_are_the_first_of_more(name):
    images, last = [image(25, 7)], set()
    for keep in range(1, 26):
        now = set(chosen(name, images, keep=keep)[0])
        assert last < now
        last = now


@pytest.mark.parametrize("name", ALL)
def test_one_token_and_more_than_there_are(name):
    for length, keep, left in ((1, 1, 1), (1, 0.2, 1), (5, 1, 1), (5, 9, 5), (5, 5, 5)):
        x, signals = batch(image(length, 0), image(length, 1))
        del signals["encoder_features"]
        got = reduced(name, x, signals, keep=keep)
        assert got.count == left and torch.isfinite(got.apply(x)).all()
        if left == length:
            assert torch.equal(got.apply(x), x)


def test_cells_of_a_grid():
    for rows, columns in ((24, 24), (5, 7), (1, 9), (9, 1), (3, 11)):
        for count in range(1, rows * columns + 1):
            cells, middles = grid_cells(rows, columns, count)
            assert sorted(set(cells)) == list(range(count)) and [cells[m] for m in middles] == list(range(count))
    cells = torch.tensor(grid_cells(24, 24, 64)[0]).view(24, 24)
    for cell in range(64):
        where = (cells == cell).nonzero()
        assert (where.amax(dim=0) - where.amin(dim=0)).tolist() == [2, 2] and len(where) == 9
    with pytest.raises(OptionError, match="1 to 6 cells, got 7"):
        grid_cells(2, 3, 7)


def test_pooling_is_the_library_s():
    one = image(144, 5)
    x, signals = batch(one)
    del signals["encoder_features"]
    for keep, side in ((36, 2), (16, 3), (9, 4), (1, 12)):
        got = reduced("pooling", x, signals, keep=keep).apply(x)[0]
        torch.testing.assert_close(got, oracle.pooling(one["x"], 12, 12, side))


def test_uniform_stands_in_the_middle_of_equal_stretches():
    for length, keep in ((24, 6), (10, 4), (7, 6), (576, 64)):
        expected = [int((i + 0.5) * length / keep) for i in range(keep)]
        assert chosen("uniform", [image(length, 0)], keep=keep) == [expected]


def test_options_that_cannot_be():
    load = tokenreduce.registry.default_registry().load
    wrong = {
        "cdpruner": {"relevance": "image", "relevance_scope": "all"},
        "vispruner": {"important": 1.5, "features": "keys", "attention": "all"},
        "scope": {"alpha": -1, "attention": 3},
        "visionzip": {"contextual": -2, "class_token": "yes", "attention": ""},
    }
    for name, options in wrong.items():
        for option, value in options.items():
            with pytest.raises(OptionError, match=f"{option} must be"):
                load("reducer", name)(**{option: value})
    for name in ("divprune", "cdpruner", "vispruner", "scope"):
        with pytest.raises(OptionError, match=r"chooses tokens together.*Budget\.energy"):
            load("reducer", name)(keep=tokenreduce.Budget.cumulative(0.5, cap=9)).check_rules()
    x, signals = batch(image(9, 0))
    with pytest.raises(UnfitReducerError, match="hands over no class token"):
        reduced("visionzip", x, {**signals, "projector": lambda tokens: tokens}, class_token=True)
    with pytest.raises(UnfitReducerError, match=r"needs the attention of a class token.*provides"):
        reduced("scope", x, {"keys": signals["keys"]})
