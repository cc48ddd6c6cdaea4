"""Which files belong to a distribution: listed ones, and the source of one that is installed as editable."""

import json
import sys
import types
from importlib.metadata import PathDistribution

import pytest

from tokenreduce.registry.provenance import folders_of, foreign_path, owns, source_folder


@pytest.fixture
def dist(tmp_path):
    """A distribution installed in ``site`` by hand, with these files listed and any other metadata."""

    def make(name, listed, **metadata):
        info = tmp_path / "site" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if listed is not None:
            (info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))
        for file, text in metadata.items():
            (info / file).write_text(text)
        return PathDistribution(info)

    return make


def test_listed_files(dist, tmp_path):
    one = dist("tr-one", ["tr_one/__init__.py"])
    assert owns(one, tmp_path / "site" / "tr_one" / "__init__.py")
    assert owns(one, tmp_path / "site" / "tr_one" / "other.py") is False
    assert owns(one, tmp_path / "elsewhere" / "tr_one" / "__init__.py") is False
    assert owns(dist("tr-two", None), tmp_path / "anything.py") is None


def test_source_of_an_editable_one(dist, tmp_path):
    source = tmp_path / "my source"
    url = json.dumps({"dir_info": {"editable": True}, "url": source.as_uri()})
    one = dist("tr-one", [], **{"direct_url.json": url})
    assert owns(one, source / "src" / "tr_one" / "__init__.py")
    assert owns(one, tmp_path / "other source" / "tr_one" / "__init__.py") is False
    assert owns(one, source / ".venv" / "lib" / "site-packages" / "tr_one" / "__init__.py") is False


def test_folders_of_a_pth_file(dist, tmp_path):
    source = tmp_path / "source"
    one = dist("tr-one", ["tr_one.pth"])
    pth = tmp_path / "site" / "tr_one.pth"
    pth.write_text(f"# comment\nimport something\n\n{source}\nbeside\n")
    assert folders_of(pth) == [source, tmp_path / "site" / "beside"]
    assert owns(one, source / "tr_one.py")
    assert owns(one, tmp_path / "site" / "beside" / "tr_one.py")


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"url": "file:///a"}', '{"dir_info": {"editable": true}}']
)
def test_no_editable_install(text):
    assert source_folder(text) is None


def test_modules_outside_any_distribution(monkeypatch):
    assert foreign_path("no_such_module", "pluggy") is None
    assert foreign_path("sys", "pluggy") is None
    assert foreign_path("pluggy", "no-such-distribution") is None
    assert foreign_path("pluggy", "pluggy") is None
    monkeypatch.setitem(sys.modules, "tr_somewhere", types.SimpleNamespace(__file__="/somewhere/tr_somewhere.py"))
    assert foreign_path("tr_somewhere", "pluggy") == "/somewhere/tr_somewhere.py"
