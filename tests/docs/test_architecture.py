"""docs/architecture.md names every package, and its picture of the imports is what the code has."""

from pathlib import Path

import tokenreduce

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_picture_of_the_imports_is_current(python):
    """Run ``python docs/imports.py``."""
    done = python(ROOT / "docs" / "imports.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_a_line(pyproject):
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (floors,) = (one["layers"] for one in contracts if one["type"] == "layers")
    table = PAGE.partition("## The floors")[2].partition("\n## ")[0]
    for name in (name.strip() for floor in floors for name in floor.split("|")):
        assert f"`{name}`" in table, f"docs/architecture.md says nothing of the package {name}"


def test_the_files_that_it_names_are_there():
    package = Path(tokenreduce.__file__).parent
    for word in PAGE.split("`"):
        if word.endswith(".py") and "/" in word and " " not in word and not word.startswith("docs/"):
            assert (package / word).exists(), word
