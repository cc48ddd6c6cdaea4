"""Every model that open_clip lists, its vision tower as configured but shallow, narrow and on a small image."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from open_clip.factory import get_model_config
from open_clip.model import _build_vision_tower
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

import tokenreduce

GRID = 5  # patches along each side
REFUSED = {  # the start of the tower's name in timm, and a word of the reason; the first that fits
    "convnext": "ConvNeXt",
    "fastvit": "FastVit",
    "swin": "within windows",
    "vit_relpos": "relative position",
}
CONVOLUTIONAL = "a convolutional network without tokens"


def reason(config):
    """A word of the reason for which the tower is refused, None for one that is supported."""
    name = config.get("timm_model_name")
    if name is None:
        return CONVOLUTIONAL if isinstance(config["layers"], list) else None
    return next((word for start, word in REFUSED.items() if name.startswith(start)), None)


def small_tower(config, shrink, monkeypatch):
    """The vision tower that a configuration describes, made small; nothing is downloaded."""
    if config.get("timm_model_name") is None:
        heads = config["width"] // config.get("head_width", 64)
        small = {"layers": 2, "width": 8 * heads, "head_width": 8, "image_size": GRID * config["patch_size"]}
        return _build_vision_tower(32, {**config, **small})
    create = timm.create_model
    arguments = shrink(config["timm_model_name"], GRID)
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **given, **arguments))
    return _build_vision_tower(32, {**config, "timm_model_pretrained": False})


def tensors(output):
    return output if isinstance(output, tuple) else (output,)


@pytest.mark.sweep
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_model(name, shrink, scramble, forwards, snapshot, assert_close, monkeypatch):
    config = get_model_config(name)["vision_cfg"]
    word = reason(config)
    if word is not None:
        with torch.device("meta"):
            tower = _build_vision_tower(512, {**config, "timm_model_pretrained": False})
        with pytest.raises(tokenreduce.errors.UnsupportedModelError, match=word):
            tokenreduce.attach(tower, "tome")
        assert forwards(tower) == []
        return
    tower = scramble(small_tower(config, shrink, monkeypatch)).eval()
    assert isinstance(tower, (VisionTransformer, TimmModel))
    size = tower.image_size if isinstance(tower, VisionTransformer) else tower.trunk.patch_embed.img_size
    x, untouched = torch.randn(2, 3, *size), snapshot(tower)
    with torch.no_grad():
        plain = tensors(tower(x))
        with tokenreduce.attach(tower, "none") as handle:
            assert handle.config["adapter"] == "open-clip"
            for got, expected in zip(tensors(tower(x)), plain, strict=True):
                assert_close(got, expected)
        for reducer, options in (("tome", {"r": 4}), ("random", {"remove": 4})):
            with tokenreduce.attach(tower, reducer, layers=[0, 1], **options) as handle:
                reduced = tensors(tower(x))
                first = handle.last.sites[0].tokens_in
                assert first in (GRID * GRID, GRID * GRID + 1)
                assert [row.tokens_out for row in handle.last.sites] == [first - 4, first - 8]
            assert reduced[0].shape == plain[0].shape
            assert reduced[0].isfinite().all()
            assert not torch.equal(reduced[0], plain[0])
        assert snapshot(tower) == untouched
        assert all(map(torch.equal, tensors(tower(x)), plain))


@pytest.mark.sweep
def test_what_the_sweep_refuses_is_no_plain_vit():
    """The names of the towers that are refused: convolutions, windows, relative positions."""
    refused = {name for name in open_clip.list_models() if reason(get_model_config(name)["vision_cfg"])}
    starts = ("MobileCLIP", "RN", "convnext", "swin", "vit_relpos")
    assert all(name.startswith(starts) for name in refused)
    assert len(open_clip.list_models()) - len(refused) >= 100
