"""An attachment as files, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.testing.models import reduced_stack


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "options"),
    [("tome", {"r": (3, -0.5), "layers": [0, 2]}), ("pumer", {"saliency": "random"}), ("dynamicvit", {"keep": 0.6})],
)
def test_the_same_again(name, options, case, tmp_path):
    model, run = case
    handle = tokenreduce.attach(model, name, restore=True, **options)
    with torch.no_grad():
        for parameter in reduced_stack(handle).reducer.parameters() if name == "dynamicvit" else ():
            parameter.normal_()
        expected = run(model)
    handle.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    learned = ["reducer.safetensors"] if name == "dynamicvit" else []
    assert files(folder) == [*learned, "tokenreduce.json"]
    written = json.loads((folder / "tokenreduce.json").read_text())
    assert written["config"] == json.loads(json.dumps(handle.config))
    assert written["versions"]["tokenreduce"] == tokenreduce.__version__ and "torch" in written["versions"]
    config = handle.config
    handle.detach()
    torch.manual_seed(9)
    again = tokenreduce.load(model, folder)
    assert again.config == config and again.attached
    with torch.no_grad():
        assert torch.equal(run(model), expected)
    again.save(folder)  # over what is there
    tokenreduce.attach(model, "tome", r=1, replace=True).save(folder)
    assert files(folder) == ["tokenreduce.json"]


def test_several_stacks(tiny_meter, tmp_path):
    model, inputs = tiny_meter()
    handle = tokenreduce.attach(model, {"cross": "pumer", "vision": "dynamicvit", "text": "dynamicvit"})
    handle.scale(0.5, "vision")
    with torch.no_grad():
        expected = model(**inputs).logits
    handle.save(str(tmp_path))
    assert {name.split(".")[0] for name in load_file(tmp_path / "reducer.safetensors")} == {"vision", "text"}
    handle.detach()
    again = tokenreduce.load(model, str(tmp_path))
    assert [one.factor for one in again.stacks.values()] == [1, 0.5, 1]
    assert list(again.stacks) == ["cross", "vision", "text"]
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected)


def test_weights_that_do_not_fit_are_named(tiny_vit, tmp_path):
    model = tiny_vit()
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2])
    handle.save(tmp_path)
    old = tokenreduce.attach(model, "tome", r=1, replace=True)
    file = tmp_path / "reducer.safetensors"
    tensors = load_file(file)
    tensors["vision.extra"] = torch.zeros(1)
    tensors["vision.predictors.0.rest.4.bias"] = torch.zeros(3)
    del tensors["vision.predictors.1.rest.4.bias"]
    save_file(tensors, file)
    with pytest.raises(UnfitReducerError) as error:
        tokenreduce.load(model, tmp_path, replace=True)
    for part in (
        "missing: vision.predictors.1.rest.4.bias",
        "not of this reducer: vision.extra",
        "vision.predictors.0.rest.4.bias is (3,), expected (2,)",
    ):
        assert part in str(error.value)
    assert tokenreduce.attachment(model) is old and not hasattr(model, "tokenreduce")
    file.unlink()
    with pytest.raises(UnfitReducerError, match=r"missing: vision\.predictors\.0\.first\.0\.bias"):
        tokenreduce.load(model, tmp_path, replace=True)
    with pytest.raises(tokenreduce.errors.AlreadyAttachedError):
        tokenreduce.load(model, tmp_path)
    old.detach()
    with pytest.raises(UnfitReducerError):
        tokenreduce.load(model, tmp_path)
    assert tokenreduce.attachment(model) is None
    other = tiny_vit(embed_dim=16)
    save_file({**load_file_of(handle)}, file)
    with pytest.raises(UnfitReducerError, match=r"is \(32,\), expected \(16,\)"):
        tokenreduce.load(other, tmp_path)


def load_file_of(handle):
    return {f"vision.{name}": value.clone() for name, value in handle.stacks["vision"].reducer.state_dict().items()}


def test_weights_of_a_reducer_without_any(tiny_vit, tmp_path):
    model = tiny_vit()
    tokenreduce.attach(model, "tome", r=1).save(tmp_path)
    save_file({"vision.score": torch.zeros(1)}, tmp_path / "reducer.safetensors")
    with pytest.raises(UnfitReducerError, match=r"not of this reducer: vision\.score"):
        tokenreduce.load(model, tmp_path, replace=True)


def test_files_that_are_something_else(tiny_vit, tmp_path):
    model = tiny_vit()
    with pytest.raises(OptionError, match=r"no tokenreduce\.json in .*handle\.save"):
        tokenreduce.load(model, tmp_path)
    file = tmp_path / "tokenreduce.json"
    for text in ("", "[]", "{}", '{"config": {}}', "\x00"):
        file.write_text(text)
        with pytest.raises(OptionError, match=r"not what handle\.save writes"):
            tokenreduce.load(model, tmp_path)
    file.write_text('{"format": 99, "config": {"reducer": "tome"}, "versions": {"tokenreduce": "9"}}')
    with pytest.raises(OptionError, match=r"has format 99, this version of tokenreduce reads 1; .*'9'"):
        tokenreduce.load(model, tmp_path)
    tokenreduce.attach(model, "dynamicvit").save(tmp_path)
    (tmp_path / "reducer.safetensors").write_bytes(b"no tensors")
    with pytest.raises(OptionError, match="not a file of safetensors"):
        tokenreduce.load(model, tmp_path, replace=True)
    assert tokenreduce.attachment(model).config["reducer"] == "dynamicvit"


class Odd(Reducer):
    """Its option may be anything."""

    thing: Any = None

    def reduce(self, tokens, signals, remove):
        return tokens.identity()


@pytest.mark.parametrize("thing", [torch.zeros(1), float("nan"), {1, 2}])
def test_options_that_are_not_json(thing, tiny_vit, tmp_path):
    handle = tokenreduce.attach(tiny_vit(), Odd(thing=thing))
    with pytest.raises(OptionError, match="cannot be saved"):
        handle.save(tmp_path)
    assert files(tmp_path) == []


def test_a_class_that_cannot_be_found_again(tiny_vit, tmp_path):
    class Local(Odd):
        pass

    with pytest.raises(OptionError, match="could not be attached again"):
        tokenreduce.attach(tiny_vit(), Local()).save(tmp_path)


class Versioned(Odd):
    """What its option means changed once."""

    version = 2


def test_options_of_another_version_are_refused(tiny_vit, tmp_path):
    handle = tokenreduce.attach(tiny_vit(), Versioned())
    handle.save(tmp_path)
    file = tmp_path / "tokenreduce.json"
    document = json.loads(file.read_text())
    (name,) = document["options"]
    assert document["options"] == {name: 2} and name.endswith(":Versioned")
    tokenreduce.load(tiny_vit(), tmp_path).detach()
    del document["options"]  # written before there was a version
    file.write_text(json.dumps(document))
    model = tiny_vit()
    with pytest.raises(OptionError, match=r"holds options of '.*:Versioned' in version 1, .* reads version 2"):
        tokenreduce.load(model, tmp_path)
    assert tokenreduce.attachment(model) is None
