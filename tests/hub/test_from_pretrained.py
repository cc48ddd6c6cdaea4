"""A model with its reducer out of one folder or repository: of transformers, METER, timm and open_clip."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
import transformers

import tokenreduce
from tokenreduce.errors import OptionError, UnsupportedModelError

from .stub import Repository

pytestmark = pytest.mark.usefixtures("no_grad")
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}


def vit():
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3)
    return transformers.ViTForImageClassification(config).eval()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_save_pretrained_keeps_the_reducer_beside_the_weights(tmp_path, images, snapshot):
    model = vit()
    untouched = snapshot(model)
    handle = tokenreduce.attach(model, "tome", r=3)
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    assert sorted(files_of(tmp_path)) == ["config.json", "model.safetensors", "tokenreduce.json"]
    loaded = tokenreduce.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()).logits, expected) and not loaded.training
    assert tokenreduce.attachment(loaded).config == handle.config
    again = copy.deepcopy(model)
    again.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenreduce.json").exists()
    handle.detach()
    assert snapshot(model) == untouched
    model.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "tokenreduce.json").exists()


def test_what_a_saved_model_lacks_is_said(tmp_path, hub):
    class Mine(tokenreduce.Reducer):
        def reduce(self, tokens, signals, remove):
            return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)

    model = vit()
    with (
        tokenreduce.attach(model, Mine(keep=0.5), layers=[1]),
        pytest.warns(RuntimeWarning, match="without its reducer"),
    ):
        model.save_pretrained(tmp_path / "mine")
    assert sorted(files_of(tmp_path / "mine")) == ["config.json", "model.safetensors"]
    with tokenreduce.attach(model, "tome", r=2):
        with pytest.warns(RuntimeWarning, match="uploaded the model alone"):
            model.save_pretrained(tmp_path / "pushed", push_to_hub=True, repo_id="user/pushed")
        assert "tokenreduce.json" not in hub.repositories["user/pushed"].at("main")
        assert (tmp_path / "pushed" / "tokenreduce.json").exists()
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            model.push_to_hub("user/both")
        assert {"tokenreduce.json", "model.safetensors"} <= set(hub.repositories["user/both"].at("main"))
        model.save_pretrained(tmp_path / "other", is_main_process=False)
        assert not (tmp_path / "other" / "tokenreduce.json").exists()


def test_from_a_repository(tmp_path, hub, images):
    model = vit()
    tokenreduce.attach(model, "evit", keep=0.6, layers=[1])
    expected = model(images()).logits
    model.save_pretrained(tmp_path / "model")
    hub.repositories["user/repo"] = Repository()
    files = {**files_of(tmp_path / "model"), "pytorch_model.bin": b"\x80\x04cos\nsystem\n.", "modeling.py": b"1 / 0"}
    first = hub.repositories["user/repo"].commit(files)
    hub.repositories["user/repo"].commit({"tokenreduce.json": b"broken"})
    loaded = tokenreduce.from_pretrained("user/repo", revision=first)
    assert torch.equal(loaded(images()).logits, expected)
    assert not any(one.endswith((".bin", ".py")) for one in hub.asked)
    with pytest.raises(OptionError, match="is not what"):
        tokenreduce.from_pretrained("user/repo")


def test_spread_out_while_it_is_read(tmp_path, images):
    pytest.importorskip("accelerate")
    model = vit()
    tokenreduce.attach(model, "tome", r=3)
    expected = model(images()).logits
    model.save_pretrained(tmp_path / "model")
    given = {"max_memory": {"cpu": "60KB"}, "offload_folder": str(tmp_path / "off")}
    loaded = tokenreduce.from_pretrained(tmp_path / "model", device_map="auto", **given)
    assert "disk" in loaded.hf_device_map.values()
    assert torch.equal(loaded(images()).logits, expected)
    tokenreduce.attachment(loaded).detach()


def test_meter(tmp_path, tiny_meter):
    model, inputs = tiny_meter()
    tokenreduce.attach(model, {"cross": "pumer", "vision": {"reducer": "tome", "r": 2}})
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(tokenreduce.from_pretrained(tmp_path)(**inputs).logits, expected)


def test_timm(tmp_path, images):
    import timm

    model = timm.create_model("test_vit", num_classes=3).eval()
    x = images(2, 160, 160)
    handle = tokenreduce.attach(model, "tome", r=4)
    expected = model(x)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    handle.save(tmp_path)
    assert torch.equal(tokenreduce.from_pretrained(tmp_path)(x), expected)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"no model.safetensors, as timm"):
        tokenreduce.from_pretrained(tmp_path)


def test_open_clip(tmp_path, images):
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2},
    }
    model = open_clip.CLIP(**config).eval()
    handle = tokenreduce.attach(model, "tome", r=2)
    expected = model.encode_image(images())
    save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    written = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(written))
    handle.save(tmp_path)
    assert torch.allclose(tokenreduce.from_pretrained(tmp_path).encode_image(images()), expected, atol=1e-6)


def test_what_cannot_be_read(tmp_path, tiny_vit):
    with tokenreduce.attach(tiny_vit(), "tome", r=2) as handle:
        handle.save(tmp_path)
    with pytest.raises(OptionError, match=r"no weights of a model as .safetensors.*tokenreduce.load"):
        tokenreduce.from_pretrained(tmp_path)
    with pytest.raises(OptionError, match=r"there is no tokenreduce.json"):
        tokenreduce.from_pretrained(tmp_path / "nothing")
    model = vit()
    with tokenreduce.attach(model, "tome", r=2):
        model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for named, match in (
        (["Pipeline"], "no model Pipeline"),
        (["NoSuchModel"], "no model NoSuchModel"),
        ([], "architecture"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": named}))
        with pytest.raises(tokenreduce.TokenReduceError, match=match):
            tokenreduce.from_pretrained(tmp_path)


def test_weights_that_are_spread_over_processes_are_left_to_all_of_them(tmp_path):
    """A trainer saves on one process, where gathering them would wait for the others for ever."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = vit()
        handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2])
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.warns(RuntimeWarning, match=r"spread over processes.*handle.save\(folder\) on every process"):
            model.save_pretrained(tmp_path / "model", state_dict=weights)
        assert not (tmp_path / "model" / "tokenreduce.json").exists()
        handle.save(tmp_path / "model")
    finally:
        distributed.destroy_process_group()
