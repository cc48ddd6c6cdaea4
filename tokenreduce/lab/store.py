"""Finished cells on disk: an interrupted ablation goes on where it stopped, a repeated one is instant.

A cell is one JSON file, named by a hash of all that its value depends on: model, data, options, code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from .._documents import check_document
from ..tasks.identity import Identity

T = TypeVar("T")


class Store:
    """Cells in a folder; without a folder nothing is kept.

    A folder that cannot be made, read or written to is no error: the ablation goes on without, and :attr:`notes` say
    so.

    Args:
        folder: where the cells are; None for nowhere.
        fresh: only values that this store has put itself count.

    Attributes:
        hits, misses: how often a cell was there, or had to be computed, so far.
        notes: what the user should know, each once.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, fresh: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.fresh = fresh
        self.hits = self.misses = 0
        self.notes: list[str] = []
        self._new: set[str] = set()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._give_up(error)

    def get(self, key: str | None, kind: Any) -> Any:
        """The value of a cell, or None where there is none that is of the kind (a type, as pydantic reads it)."""
        value = None
        if self.folder is not None and key is not None and (not self.fresh or key in self._new):
            try:
                document = json.loads(self._path(key).read_text(encoding="utf-8"))
                value = check_document(kind, document["value"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not there, or damaged: computed again
                value = None
        self.hits, self.misses = self.hits + (value is not None), self.misses + (value is None)
        return value

    def put(self, key: str | None, value: Any, about: dict[str, Any]) -> None:
        """Keep a value, whole or not at all; ``about`` is stored beside it for whoever looks."""
        if self.folder is None or key is None:
            return
        value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        try:
            text = json.dumps({"about": about, "value": value}, default=str, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return  # a value that JSON cannot hold is computed again
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(name, path)  # noqa: PTH105 - atomic, also over a file that is there
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)  # noqa: PTH108
                raise
        except OSError as error:
            self._give_up(error)
            return
        self._new.add(key)

    def _give_up(self, error: OSError) -> None:
        """Go on without keeping anything more; what is there can still be read."""
        note = (
            f"results cannot be kept in {self.folder} ({error.strerror or error}), so a repeated run works them out "
            "again; name another folder with --store, or none with --no-store"
        )
        if note not in self.notes:
            self.notes.append(note)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def default_folder() -> Path | None:
    """``$TOKENREDUCE_CACHE``, or ``tokenreduce`` in the user's cache folder; None where there is no home."""
    own = os.environ.get("TOKENREDUCE_CACHE")
    try:
        return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenreduce"
    except RuntimeError:  # nobody knows this user's home
        return None


def key_of(about: dict[str, Any]) -> str | None:
    """A hash of facts, in their order; what is no JSON counts by all that it holds. None where nobody can tell that."""
    walk = Identity()
    try:
        text = json.dumps(about, default=lambda value: f"{type(value).__qualname__} {walk.of(value)}")
    except (TypeError, ValueError, RecursionError):
        return None
    return None if walk.unknown else hashlib.sha256(text.encode()).hexdigest()[:32]
