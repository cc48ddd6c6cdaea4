"""The site builds without a warning, has a page for each method and hook, and what is read off the code is current."""

import importlib
import re
from pathlib import Path

import pytest

import tokenreduce
from tokenreduce.methods import BaseReducer, Budget
from tokenreduce.registry.kinds import HOOKS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLIC = ["tokenreduce", *(f"tokenreduce.{name}" for name in dir(tokenreduce) if name not in tokenreduce.__all__)]
NAV = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text())


def test_generated_parts_are_current(python):
    """Run ``python docs/generate.py``."""
    done = python(DOCS / "generate.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_in_the_navigation():
    assert sorted(NAV) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_method_has_a_page():
    methods = {
        name for name, e in tokenreduce.registry.default_registry().reducers.items() if e.distribution == "tokenreduce"
    }
    assert {page.stem for page in (DOCS / "methods").glob("*.md")} == methods | {"index"}
    for name in methods:
        assert f"({name}.md)" in (DOCS / "methods" / "index.md").read_text()


def test_every_hook_is_in_the_reference():
    page = (DOCS / "hooks.md").read_text()
    for hook, kind in HOOKS.items():
        assert f"## `{hook}`" in page
        assert f"### `{kind.spec.__name__}`" in page


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_in_the_api(package):
    page = (DOCS / "api.md").read_text()
    shown = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith("::: ")}
    for name in importlib.import_module(package).__all__:
        assert name in shown or f"`{package}.{name}" in page, name


def test_what_the_api_shows_is_there():
    for line in (DOCS / "api.md").read_text().splitlines():
        if line.startswith("::: "):
            module, _, name = line[4:].rpartition(".")
            assert hasattr(importlib.import_module(module), name), line


def test_a_third_party_reducer_is_described_like_a_built_in_one(fresh_registry, capsys):
    from tokenreduce import cli

    fresh_registry.add(tokenreduce.registry.ReducerSpec("mine", f"{__name__}:Mine", "my method", source="my paper"))
    assert cli.main(["info", "mine", "--markdown"]) == 0
    text = capsys.readouterr().out
    for said in ("| source | my paper |", "| `much` | `0.5` | how much \\| of it. |", "Keeps the `first` tokens"):
        assert said in text, text


class Mine(BaseReducer):
    """Keeps the ``first`` tokens.

    Args:
        much: how much | of
            it.
    """

    much: float = 0.5

    def budgets(self):
        return {"much": Budget(keep=self.much)}

    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(-signals.keys.norm(dim=-1), remove=remove)


def test_it_builds_without_a_warning(python, tmp_path):
    command = ["-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path / "site"]
    done = python(*command, cwd=ROOT, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "Make a model drop and merge tokens inside" in api
    assert ":class:" not in api
