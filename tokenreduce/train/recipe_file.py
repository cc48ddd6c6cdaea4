"""A recipe out of a file: one that somebody wrote, or that of an earlier run."""

from __future__ import annotations

from pathlib import Path

from .._documents import check_document, read_document
from ..errors import OptionError
from .recipe import Recipe


def read_recipe(path: str | Path) -> Recipe:
    """The settings in a TOML or JSON file, others as by default; of a run's ``run.json``, those of that run.

    Raises:
        OptionError: no such file, an unknown setting, or a value of the wrong kind or out of range.
    """
    given = read_document(path, "name a TOML or JSON file with settings such as lr = 0.001")
    if not isinstance(given, dict):
        raise OptionError(f"{path} holds a table of settings (lr = 0.001 ...), got {given!r}")
    if isinstance(given.get("recipe"), dict):
        return check_document(Recipe, given["recipe"], f"{path}: recipe")
    return check_document(Recipe, given, str(path))
