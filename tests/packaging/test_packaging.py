"""The tree, the wheel and the entry points agree; the public names are what they say."""

import zipfile
from pathlib import Path

import pytest

import tokenreduce

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(p.parent for folder in ("plugins", "adapters") for p in (ROOT / folder).glob("*/__init__.py"))
PLUGINS = [  # modules with hooks, by their folder
    p.parent.relative_to(ROOT / folder)
    for folder in ("plugins", "adapters")
    for p in (ROOT / folder).rglob("__init__.py")
    if "hookimpl" in p.read_text()
]


def test_every_package_is_in_the_wheel_and_registered(pyproject):
    listed = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(listed) == sorted(["tokenreduce", *(str(p.relative_to(ROOT).as_posix()) for p in FOLDERS)])
    points = pyproject["project"]["entry-points"]["tokenreduce"]
    modules = [folder.as_posix().replace("/", ".") for folder in PLUGINS]
    assert sorted(points.values()) == sorted(["tokenreduce.registry.baselines", *modules])


def test_no_package_of_folders():
    assert not (ROOT / "plugins" / "__init__.py").exists()
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_public_names():
    assert sorted(tokenreduce.__all__, key=lambda name: (not name.isupper(), name)) == tokenreduce.__all__
    for name in tokenreduce.__all__:
        assert getattr(tokenreduce, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tokenreduce.no_such_name


def test_every_spec_resolves():
    registry = tokenreduce.registry.default_registry()
    assert [b for b in registry.broken if b.distribution == "tokenreduce"] == []
    for kind in ("reducers", "adapters", "tasks"):
        for entry in getattr(registry, kind).values():
            assert entry.spec.load() is not None


def test_spec_needs_are_those_of_the_default_reducer():
    for name, entry in tokenreduce.registry.default_registry().reducers.items():
        made = entry.spec.load()()
        assert set(entry.spec.needs) == set(made.needs), name


def test_wheel_holds_code_types_and_weights(python, tmp_path):
    done = python("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25_000_000  # docs/quickstart.md says what is in it
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "tokenreduce/py.typed",
        "tokenreduce/cli/scaffold/reducer/package/__init__.py.tmpl",
        "tokenreduce/cli/scaffold/task/pyproject.toml.tmpl",
        "tokenreduce_methods/pumer/method.py",
        "tokenreduce_digits/vilt.safetensors",
        "tokenreduce_digits/clip.safetensors",
        "tokenreduce_digits/crowded/vilt.safetensors",
        "tokenreduce_digits/crowded/tuned/pumer/model.safetensors",
        "tokenreduce_digits/crowded/tuned/pumer/tokenreduce.json",
    ):
        assert name in names
    assert not [n for n in names if n.startswith(("tests/", "plugins/", "adapters/", "benchmarks/"))]


def test_each_file_of_weights_is_under_ten_megabytes_and_all_under_25():
    weights = list((ROOT / "plugins").rglob("*.safetensors"))
    assert {"vilt.safetensors", "clip.safetensors"} <= {p.name for p in weights}
    assert all(p.stat().st_size < 10_000_000 for p in weights)
    assert sum(p.stat().st_size for p in weights) < 25_000_000
