"""Finished cells on disk: an interrupted ablation goes on where it stopped, a repeated one is instant.

A cell is one JSON file, named by a hash of all that its value depends on: model, data, options, code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import OptionError


class Store:
    """Cells in a folder; without a folder nothing is kept.

    Attributes:
        hits, misses: how often a cell was there, or had to be computed, so far.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, fresh: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.fresh = fresh
        self.hits = self.misses = 0
        self._new: set[str] = set()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OptionError(f"results cannot be kept in {self.folder}: {error}; name another folder") from error

    def get(self, key: str) -> Any:
        """The value of a cell, or None. With ``fresh``, only values put by this store count."""
        value = None
        if self.folder is not None and (not self.fresh or key in self._new):
            try:
                value = json.loads(self._path(key).read_text())["value"]
            except (OSError, ValueError, KeyError, TypeError):  # not there, or cut short by a crash: computed again
                value = None
        self.hits, self.misses = self.hits + (value is not None), self.misses + (value is None)
        return value

    def put(self, key: str, value: Any, about: dict[str, Any]) -> None:
        """Keep a value, whole or not at all; ``about`` is stored beside it for whoever looks."""
        if self.folder is None:
            return
        self._new.add(key)
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            json.dump({"about": about, "value": value}, file)
        os.replace(name, path)  # noqa: PTH105 - atomic, also over a file that is there

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def default_folder() -> Path:
    """``$TOKENREDUCE_CACHE``, or ``tokenreduce`` in the user's cache folder."""
    own = os.environ.get("TOKENREDUCE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenreduce"


def key_of(about: dict[str, Any]) -> str:
    """A hash of JSON-able facts, whatever their order."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=repr).encode()).hexdigest()[:32]


@functools.cache
def package_fingerprint(package: str) -> str:
    """A hash of every Python source of a top-level package, or of a module's one file."""
    spec = importlib.util.find_spec(package) if package != "__main__" else None
    origin = spec.origin if spec is not None else None
    if spec is not None and spec.submodule_search_locations:
        files = sorted(p for root in spec.submodule_search_locations for p in Path(root).rglob("*.py"))
    else:
        files = [Path(origin)] if origin and Path(origin).is_file() else []
    sha = hashlib.sha256()
    for file in files:
        sha.update(file.name.encode() + file.read_bytes())
    return sha.hexdigest()[:16]


def code_fingerprint(objects: Iterable[Any]) -> str:
    """A hash of this package's sources and of those that the given classes and functions come from."""
    parts = {"tokenreduce": package_fingerprint("tokenreduce")}
    for item in objects:
        module = getattr(item, "__module__", None) or "__main__"
        package = module.partition(".")[0]
        if package in ("torch", "builtins"):
            continue
        if package == "__main__":
            parts[getattr(item, "__qualname__", repr(item))] = _source(item)
        else:
            parts[package] = package_fingerprint(package)
    return key_of(parts)[:16]


def _source(item: Any) -> str:
    try:
        return inspect.getsource(item)
    except (OSError, TypeError):
        return repr(item)
