"""Attachments go to a repository and come back; nothing is run, and what is wrong is said in words."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, PluginError, UnfitReducerError

from .stub import Repository

pytestmark = pytest.mark.usefixtures("no_grad")


def test_there_and_back(hub, tiny_vit, images):
    model, x = tiny_vit(), images()
    handle = tokenreduce.attach(model, "tome", r=3, layers=[1, 2])
    expected = model(x)
    url = handle.push_to_hub("user/repo")
    files = hub.repositories["user/repo"].at("main")
    assert sorted(files) == ["README.md", "tokenreduce.json"]
    assert url.endswith(hub.repositories["user/repo"].branches["main"])
    other = tiny_vit()
    loaded = tokenreduce.load(other, "user/repo")
    assert torch.equal(other(x), expected)
    assert loaded.config == handle.config
    fetched = [one for one in hub.asked if one.startswith("GET") and "resolve" in one]
    assert all(one.endswith(("README.md", "tokenreduce.json")) for one in fetched)


def test_learned_weights_come_along(hub, tiny_vit, images):
    model, x = tiny_vit(), images()
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2])
    for weight in model.tokenreduce.parameters():
        weight.add_(torch.randn_like(weight))
    handle.scale(0.5)
    expected = model(x)
    handle.push_to_hub("user/learned", private=True)
    assert hub.repositories["user/learned"].private
    other = tiny_vit()
    assert tokenreduce.load(other, "user/learned").stacks["vision"].factor == 0.5
    assert torch.equal(other(x), expected)
    with pytest.raises(UnfitReducerError, match=r"expected \("):
        tokenreduce.load(tiny_vit(embed_dim=64), "user/learned")


def test_revisions(hub, tiny_vit):
    model = tiny_vit()
    with tokenreduce.attach(model, "tome", r=3) as handle:
        handle.push_to_hub("user/repo")
        first = hub.repositories["user/repo"].branches["main"]
    with tokenreduce.attach(model, "tome", r=1) as handle:
        handle.push_to_hub("user/repo", revision="gentle", message="Merge fewer")
    for revision, r in ((None, 3), ("gentle", 1), (first, 3)):
        with tokenreduce.load(model, "user/repo", revision=revision) as handle:
            assert handle.config["r"] == r
    with pytest.raises(OptionError, match=r"'user/repo' at revision 'v9' \(RevisionNotFoundError"):
        tokenreduce.load(model, "user/repo", revision="v9")
    with tokenreduce.attach(model, "tome", r=2) as handle:
        assert handle.push_to_hub("user/repo", pull_request=True).endswith("/discussions/1")
    with tokenreduce.load(model, "user/repo") as handle:
        assert handle.config["r"] == 3


def test_the_card_of_a_model_keeps_all_else(hub, tiny_vit):
    hub.repositories["user/repo"] = made = Repository()
    made.commit({"README.md": b"---\nlicense: mit\n---\n# My model\n", "model.safetensors": b"weights"})
    with tokenreduce.attach(tiny_vit(), "tome", r=3) as handle:
        handle.push_to_hub("user/repo")
        once = made.at("main")["README.md"].decode()
        assert once.startswith("---\nlicense: mit\n---\n# My model\n")
        assert 'tokenreduce.load(model, "user/repo")' in once and '"reducer": "tome"' in once
        handle.push_to_hub("user/repo")
    assert made.at("main")["README.md"].decode() == once
    assert made.at("main")["model.safetensors"] == b"weights"


def test_the_numbers_of_an_ablation(hub, tiny_vit):
    from tokenreduce.lab.result import BatchTiming, Result, Row

    rows = [
        Row("none", role="baseline", accuracy=0.98, macs_share=1.0, tokens=16),
        Row("a|b <b>", accuracy=0.96, macs_share=0.5, tokens=9, verdict="beats random", paces=[
            BatchTiming(8, [1.0, 1.0, 1.0], [1.5, 1.6, 1.7])]),
        Row("broken", failed="no such kernel"),
    ]  # fmt: skip
    result = Result(rows, {"model": {"name": "vilt-digits"}, "data": {"name": "digits"}, "machine": "a CPU"})
    with tokenreduce.attach(tiny_vit(), "tome", r=3) as handle:
        handle.push_to_hub("user/repo", ablation=result)
        card = hub.repositories["user/repo"].at("main")["README.md"].decode()
        assert "| none | 98.0 % | 100 % |  | 16 |  |" in card
        assert "| a\\|b &lt;b&gt; | 96.0 % | 50 % | 1.60 (batch 8) | 9 | beats random |" in card
        assert "| broken | failed |" in card and "model vilt-digits; data digits; a CPU" in card
        handle.push_to_hub("user/repo", ablation=json.loads(json.dumps(result.to_json())))
        assert hub.repositories["user/repo"].at("main")["README.md"].decode() == card
        for wrong in ("result.json", {"rows": 3}, {"rows": [], "setup": None}, {"rows": [1], "setup": {}}):
            with pytest.raises(OptionError, match="ablation="):
                handle.push_to_hub("user/repo", ablation=wrong)


def test_what_is_wrong_is_said_and_nothing_is_touched(hub, tiny_vit, tmp_path, snapshot):
    model = tiny_vit()
    untouched = snapshot(model)
    with pytest.raises(OptionError, match=r"'nobody/nothing' \(RepositoryNotFoundError.*Check the name"):
        tokenreduce.load(model, "nobody/nothing")
    with pytest.raises(OptionError, match=r"revision='main' names a commit.*neither a folder"):
        tokenreduce.load(model, "one two/three", revision="main")
    with pytest.raises(OptionError, match="is a folder; leave revision out"):
        tokenreduce.load(model, tmp_path, revision="main")
    with pytest.raises(OptionError, match=r"there is no tokenreduce.json in"):
        tokenreduce.load(model, tmp_path)
    hub.repositories["user/empty"] = Repository()
    hub.repositories["user/empty"].commit({"config.json": b"{}"})
    with pytest.raises(OptionError, match="EntryNotFound"):
        tokenreduce.load(model, "user/empty")
    hub.repositories["user/evil"] = Repository()
    named = {"format": 1, "config": {"reducer": "os:system"}}
    hub.repositories["user/evil"].commit({"tokenreduce.json": json.dumps(named).encode()})
    with pytest.raises(tokenreduce.TokenReduceError, match="os:system"):
        tokenreduce.load(model, "user/evil")
    hub.repositories["user/pickled"] = Repository()
    config = {"format": 1, "config": {"reducer": "dynamicvit", "layers": [1]}}
    evil = {"tokenreduce.json": json.dumps(config).encode(), "reducer.safetensors": b"\x80\x04cos\nsystem\n."}
    hub.repositories["user/pickled"].commit(evil)
    with pytest.raises(OptionError, match="not a file of safetensors"):
        tokenreduce.load(model, "user/pickled")
    assert snapshot(model) == untouched
    with tokenreduce.attach(model, "tome", r=1) as handle, pytest.raises(OptionError, match="named 'user/repo'"):
        handle.push_to_hub("no-owner")


def test_without_the_library(monkeypatch, tiny_vit, tmp_path):
    for name in ("huggingface_hub", "huggingface_hub.errors"):
        monkeypatch.setitem(sys.modules, name, None)
    model = tiny_vit()
    with pytest.raises(PluginError, match="pip install huggingface_hub"):
        tokenreduce.load(model, "user/repo")
    with tokenreduce.attach(model, "tome", r=2) as handle:
        with pytest.raises(PluginError, match="pip install huggingface_hub"):
            handle.push_to_hub("user/repo")
        handle.save(tmp_path)
    tokenreduce.load(model, tmp_path).detach()


def test_a_folder_of_that_name_comes_first(hub, tiny_vit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_vit()
    with tokenreduce.attach(model, "tome", r=2) as handle:
        handle.save("user/repo")
    with tokenreduce.load(model, "user/repo") as handle:
        assert handle.config["r"] == 2
    assert not hub.asked


SCRIPT = """
import timm, tokenreduce, torch
torch.manual_seed(0)
model = timm.create_model("test_vit", num_classes=3).eval()
handle = tokenreduce.attach(model, "tome", r=2)
print(handle.push_to_hub("user/repo"))
handle.detach()
print(tokenreduce.load(model, "user/repo").config["r"])
"""


@pytest.mark.sweep
def test_the_address_of_the_environment(hub, python, tmp_path):
    """Nothing is replaced here: another process, which asks where HF_ENDPOINT says."""
    done = python("-c", SCRIPT, HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "home"), HF_TOKEN="hf_of_the_stub")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2"
    assert "tokenreduce.json" in hub.repositories["user/repo"].at("main")
