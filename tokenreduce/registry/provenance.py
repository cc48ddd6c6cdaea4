"""Whether a module was imported from the distribution that claims it; by installed metadata, without torch."""

from __future__ import annotations

import functools
import json
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def foreign_path(module: str, name: str) -> str | None:
    """Where an imported module lies, if that is not in the distribution ``name``; None if it is, or nobody can tell.

    Nobody can tell of modules without a file, and of distributions that list no files.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    try:
        found = owns(distribution(name), Path(file).resolve())
    except PackageNotFoundError:
        return None
    return str(file) if found is False else None


def owns(dist: Distribution, file: Path) -> bool | None:
    """Whether a file belongs to a distribution: one that it lists or, installed as editable, one of its source.

    None where the distribution lists no files.
    """
    files, roots = contents(dist)
    if file in files or any(_below(file, root) for root in roots):
        return True
    return False if files or roots else None


def contents(dist: Distribution) -> tuple[frozenset[Path], tuple[Path, ...]]:
    """The files that a distribution lists, and the folders of source that an editable one points at."""
    return _contents(dist.metadata["Name"], dist)


@functools.lru_cache(maxsize=64)
def _contents(name: str, dist: Distribution) -> tuple[frozenset[Path], tuple[Path, ...]]:
    listed = [Path(str(dist.locate_file(file))) for file in dist.files or ()]
    roots = [path for file in listed if file.suffix == ".pth" and file.exists() for path in folders_of(file)]
    editable = source_folder(dist.read_text("direct_url.json"))
    roots += [] if editable is None else [editable]
    return frozenset(file.resolve() for file in listed), tuple(root.resolve() for root in roots)


def folders_of(pth: Path) -> list[Path]:
    """The folders that a ``.pth`` file puts on the path; relative ones count from where it lies."""
    lines = [line.strip() for line in pth.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [pth.parent / line for line in lines if line and not line.startswith(("#", "import ", "import\t"))]


def source_folder(direct_url: str | None) -> Path | None:
    """The folder of an editable install, from its ``direct_url.json`` (PEP 610); None if it is not editable."""
    try:
        record = json.loads(direct_url or "{}")
        if not record.get("dir_info", {}).get("editable"):
            return None
        return Path(url2pathname(urlsplit(record["url"]).path))
    except (ValueError, KeyError, AttributeError):
        return None


def _below(file: Path, root: Path) -> bool:
    """Whether a file is of the source in a folder; not of an environment that lies there as well."""
    if not file.is_relative_to(root):
        return False
    return not {"site-packages", "dist-packages"} & set(file.relative_to(root).parts)
