"""calibrate: the value of an option with which images keep a given number of tokens on average."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import AlreadyAttachedError, OptionError, UnfitReducerError, UnknownOptionError
from tokenreduce.measure import calibrate
from tokenreduce.tasks import Batch

from ..language import tinies

WIDE = {"min_keep": 1, "max_keep": 16}


@pytest.fixture
def vit(tiny_vit):
    """A ViT of 16 patches."""
    return tiny_vit(img_size=32, depth=3)


@pytest.fixture
def pictures():
    """Twelve that differ much."""
    noise = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return noise * torch.linspace(0.05, 3, 12).view(-1, 1, 1, 1)


@torch.no_grad()
def counts(model, x, reducer="e-adaprune", **options):
    """Tokens that each picture keeps, its class token not counted."""
    with tokenreduce.attach(model, reducer, **options) as handle:
        model(x)
        kept = handle.last.counts["image"]
    return kept - 1 if isinstance(kept, torch.Tensor) else torch.full((len(x),), kept - 1)


@pytest.mark.parametrize("target", [3, 5.5, 8, 11])
def test_the_mean_is_met(vit, pictures, target):
    energy = calibrate(vit, "e-adaprune", pictures, option="energy", mean_keep=target, **WIDE)
    vit.eval()
    assert abs(counts(vit, pictures, energy=energy, **WIDE).double().mean() - target) <= 1 / len(pictures)


def test_batches_change_nothing(vit, pictures):
    given = {"option": "energy", "mean_keep": 6, "selector": "svd-prune", "layers": [0], **WIDE}
    whole = calibrate(vit, "e-adaprune", pictures, **given)
    assert calibrate(vit, "e-adaprune", [pictures[:5], pictures[5:]], **given) == whole
    assert calibrate(vit, "e-adaprune", [({"x": pictures}, None), ({"x": pictures}, None)], **given) == whole
    assert calibrate(vit, "e-adaprune", Batch({"x": pictures}, None), **given) == whole
    parts = {"reducer": "e-adaprune", "selector": "svd-prune"}
    assert calibrate(vit, parts, {"x": pictures}, **{k: v for k, v in given.items() if k != "selector"}) == whole


def test_the_model_is_left_as_it_was(vit, pictures):
    vit.train()
    calibrate(vit, "e-adaprune", pictures, option="energy", mean_keep=6, **WIDE)
    assert vit.training and tokenreduce.attachment(vit) is None
    handle = tokenreduce.attach(vit, "none")
    with pytest.raises(AlreadyAttachedError):
        calibrate(vit, "e-adaprune", pictures, option="energy", mean_keep=6, **WIDE)
    assert tokenreduce.attachment(vit) is handle


def test_an_option_with_which_less_stays(vit, pictures):
    share = calibrate(vit, "random", pictures, option="remove", mean_keep=5, within=(0.0, 1.0), layers=[1])
    assert counts(vit.eval(), pictures, "random", remove=share, layers=[1]).tolist() == [5] * 12


def test_images_of_a_language_model():
    """Several images in a prompt count one by one."""
    tiny = tinies.llava()
    data = [tiny.batch([[tiny.size], [tiny.size] * 2], tails=[4, 7], seeds=[i, i + 9]) for i in range(2)]
    energy = calibrate(tiny.model, "e-adaprune", data, option="energy", mean_keep=11, min_keep=1)
    with tokenreduce.attach(tiny.model, "e-adaprune", energy=energy, min_keep=1) as handle, torch.no_grad():
        kept = 0
        for inputs in data:
            tiny.model(**inputs)
            kept += int(torch.as_tensor(handle.last.counts["image"]).sum() * (1 if handle.last.spread["image"] else 2))
    assert abs(kept / 6 - 11) <= 1 / 6


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"option": "enrgy"}, UnknownOptionError, "Did you mean 'energy'"),
        ({"mean_keep": 0}, OptionError, "at least 1"),
        ({"mean_keep": "64"}, OptionError, "at least 1"),
        ({"mean_keep": 15, "max_keep": 9}, UnfitReducerError, "closest is 9.00"),
        ({"within": (1.0, 0.5)}, OptionError, "least and the greatest"),
        ({"data": iter([])}, OptionError, r"pass list\(data\)"),
        ({"data": []}, OptionError, "holds no image"),
        ({"power": 5}, OptionError, "power must be 1"),
    ],
)
def test_what_cannot_be(vit, pictures, change, error, says):
    given = {"data": pictures, "option": "energy", "mean_keep": 6, **WIDE, **change}
    with pytest.raises(error, match=says):
        calibrate(vit, "e-adaprune", **given)
    assert tokenreduce.attachment(vit) is None
