"""``tokenreduce info`` reads a reducer off its source, and says what the class would have said."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from tokenreduce.registry.registry import default_registry
from tokenreduce.registry.source import read_class

SAID = [name for name, entry in default_registry().reducers.items() if entry.spec.layers is not None]


@pytest.mark.parametrize("name", SAID)
def test_the_source_says_what_the_class_says(name):
    registry = default_registry()
    spec, made = registry.entry("reducer", name).spec, registry.load("reducer", name)
    read = read_class(spec.target)
    assert list(spec.layers) == made().usual_layers(12)
    assert (read.options, read.doc) == (made.option_defaults(), inspect.getdoc(made))


@pytest.mark.parametrize("name", ["none", "tome", "pumer"])
def test_info_imports_no_torch(name):
    code = f"import sys, tokenreduce.cli; tokenreduce.cli.main(['info', {name!r}]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


CLASSES = {
    "computed": "from tokenreduce import Reducer\nclass A(Reducer):\n    seed: int = int(3)\n",
    "other base": "from other import Reducer\nclass A(Reducer):\n    seed: int = 3\n",
    "absent": "B = 3\n",
    "broken": "class A(:\n",
}


@pytest.mark.parametrize("kind", CLASSES)
def test_what_the_source_alone_does_not_say(kind, tmp_path, monkeypatch):
    (tmp_path / "said_elsewhere.py").write_text(CLASSES[kind])
    monkeypatch.syspath_prepend(tmp_path)
    assert read_class("said_elsewhere:A") is None
    assert "said_elsewhere" not in sys.modules


def test_inherited_options_with_another_default(tmp_path, monkeypatch):
    head = "from tokenreduce.methods import Reducer as Base\n"
    text = head + "class A(Base):\n    '''Doc.'''\n    keep = 0.5\n    needs = {'keys'}\n"
    (tmp_path / "said_here.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    read = read_class("said_here:A")
    assert (read.options, read.doc) == ({"keep": 0.5, "remove": None}, "Doc.")
