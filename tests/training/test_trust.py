"""No code runs because a file says so: names in saved folders are those of plugins, or of classes imported already."""

import json
import sys
import types
from functools import cached_property
from typing import Any

import pytest
from safetensors.torch import save_file

import tokenreduce
from tokenreduce.errors import OptionError, TokenReduceError
from tokenreduce.methods import BoundWrapper, WrapperReducer, make
from tokenreduce.registry.targets import imported_class

TRAP = """
import pathlib, tokenreduce
pathlib.Path({trap!r}).touch()
class R(tokenreduce.Reducer):
    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)
"""


class Wraps(WrapperReducer):
    """Another reducer, by an option of any name."""

    hidden: Any = "tome"

    @cached_property
    def inside(self):
        return (make(self.hidden),)

    def bind(self, backbone):
        return BoundWraps(self, [one.bind(backbone) for one in self.inside])


class BoundWraps(BoundWrapper):
    def reduce_streams(self, streams, site):
        return self.inside[0].reduce_streams(streams, site)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module on the path that leaves a trace when it is imported."""
    (tmp_path / "trapmod.py").write_text(TRAP.format(trap=str(tmp_path / "TRACE")))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trapmod", raising=False)
    yield tmp_path / "TRACE"
    sys.modules.pop("trapmod", None)


@pytest.fixture
def saved(tiny_vit, tmp_path):
    """A folder whose config is changed by hand."""

    def write(**config):
        with tokenreduce.attach(tiny_vit(), "tome", r=1) as handle:
            handle.save(tmp_path / "saved")
        file = tmp_path / "saved" / "tokenreduce.json"
        document = json.loads(file.read_text())
        kept = {name: document["config"][name] for name in ("adapter", "trace", "restore", "layers")}
        document["config"] = {**kept, **config}
        file.write_text(json.dumps(document))
        return tmp_path / "saved"

    return write


NAMED = [
    {"reducer": "trapmod:R"},
    {"reducer": {"vision": "trapmod:R"}, "layers": None},
    {"reducer": {"vision": {"reducer": "trapmod:R", "keep": 0.5}}, "layers": None},
    {"reducer": "tokenreduce.methods.chain:Chain", "parts": ["tome", "trapmod:R"]},
    {"reducer": "tokenreduce.methods.chain:Chain", "parts": [{"reducer": "trapmod:R"}], "layers": [1]},
    {"reducer": f"{__name__}:Wraps", "hidden": "trapmod:R"},
    {"reducer": f"{__name__}:Wraps", "hidden": {"reducer": "trapmod:R", "keep": 0.5}},
]


@pytest.mark.parametrize("config", NAMED, ids=str)
def test_a_saved_folder_imports_nothing(config, saved, trap, tiny_vit):
    model = tiny_vit()
    with pytest.raises(OptionError, match=r"tokenreduce\.json names 'trapmod:R'.*trust=True"):
        tokenreduce.load(model, saved(**config))
    assert not trap.exists() and "trapmod" not in sys.modules and tokenreduce.attachment(model) is None


@pytest.mark.parametrize("config", NAMED, ids=str)
def test_with_trust_or_after_an_import_it_does(config, saved, trap, tiny_vit):
    folder = saved(**config)
    assert tokenreduce.load(tiny_vit(), folder, trust=True).attached and trap.exists()
    assert tokenreduce.load(tiny_vit(), folder).attached  # imported by now


@pytest.mark.parametrize(
    "name", ["antigravity:x", "this:x", "tokenreduce.__main__:main", "json:loads", "os:system", "x:", ":x", "a:b:c"]
)
def test_what_is_no_reducer_is_refused(name, saved, tiny_vit):
    before = set(sys.modules)
    with pytest.raises(TokenReduceError):
        tokenreduce.load(tiny_vit(), saved(reducer=name))
    assert not {"antigravity", "this", "tokenreduce.__main__"} & (set(sys.modules) - before)


def test_looking_a_name_up_runs_nothing(monkeypatch):
    lazy = types.ModuleType("lazy_of_test")
    lazy.__getattr__ = lambda name: pytest.fail("its code has run")
    monkeypatch.setitem(sys.modules, "lazy_of_test", lazy)
    assert (
        imported_class("lazy_of_test:R") is None
        and imported_class("tests.nothing:R") is None
        and imported_class("lazy_of_test") is None
    )
    assert imported_class(f"{__name__}:Wraps") is Wraps


def test_python_may_name_what_it_likes(trap, tiny_vit):
    assert tokenreduce.attach(tiny_vit(), "trapmod:R").attached and trap.exists()


def test_folders_of_fine_tuned_weights_are_files_too(saved, trap, tiny_vit, images):
    model = tiny_vit()
    folder = saved(reducer="trapmod:R")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    data = [(images(4), [0, 1, 2, 3])]
    quick = {"metric": lambda output, target: output.argmax(-1) * 0.0, "rounds": 1, "break_even": False}
    result = tokenreduce.ablate(model, data, {"tuned": {"weights": str(folder)}}, **quick)
    assert "trust" in result.row("tuned").failed and result.row("none").failed is None and not trap.exists()
    result = tokenreduce.ablate(model, data, {"tuned": {"weights": str(folder)}}, trust=True, **quick)
    assert result.ok and trap.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"replace": True},
        {"model": "x"},
        {"trust": True},
        {"guide": [1.0]},
        {"reducer": 3},
        {"reducer": {"vision": 3}},
        {"layers": "all"},
        {"layers": [1.5]},
        {"trace": "yes"},
        {"adapter": ["timm-vit"]},
        {"restore": 1},
    ],
    ids=str,
)
def test_a_config_that_save_does_not_write_is_an_error_that_names_the_field(change, saved, tiny_vit):
    model = tiny_vit()
    with pytest.raises(OptionError, match=rf"tokenreduce\.json is not what handle\.save writes.*{next(iter(change))}"):
        tokenreduce.load(model, saved(**{"reducer": "tome", "r": 1, **change}))
    assert tokenreduce.attachment(model) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000, "not valid JSON"),
        ('{"config": {"reducer": "tome"}, "format": 1, "factors": {"vision": -1}}', "factors.vision must be 0 or more"),
        ('{"config": {"reducer": "tome"}, "format": 1, "factors": [1]}', "factors must be a table"),
        ('{"config": {"reducer": "tome"}, "format": 1, "factors": {"vision": NaN}}', "factors.vision"),
        ('{"config": {"reducer": "tome"}, "format": "1"}', "format"),
        ('{"config": {"reducer": "tome"}}', "format is missing"),
        ('\ufeff{"config": []}', "config must be a table"),
    ],
)
def test_documents_that_are_something_else(text, words, saved, tiny_vit):
    folder = saved(reducer="tome")
    (folder / "tokenreduce.json").write_text(text)
    with pytest.raises(OptionError, match=words):
        tokenreduce.load(tiny_vit(), folder)


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tiny_vit, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be saved in"):
        tokenreduce.attach(tiny_vit(), "tome").save(tmp_path / "file" / "folder")
