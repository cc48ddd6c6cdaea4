"""The source of top-level packages: whose it is, and a hash of it. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

OWN = __name__.partition(".")[0]
_IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+([A-Za-z_]\w*(?:[ \t]*,[ \t]*[A-Za-z_]\w*)*)", re.M)
_CODE = (".py", ".so", ".pyd")
_INSTALLED = {"site-packages", "dist-packages"}


def top_level(module: str | None) -> str:
    """The package that a module is part of; ``"__main__"`` where nobody knows."""
    return (module or "__main__").partition(".")[0]


@functools.cache
def is_library(package: str) -> bool:
    """Whether a package is installed for good or comes with Python, other than one that is being worked on."""
    if package == "__main__":
        return False
    if package in sys.stdlib_module_names:
        return True
    roots = _roots(package)
    return bool(roots) and all(_INSTALLED & set(root.parts) or root.is_relative_to(_stdlib()) for root in roots)


def source_fingerprints(packages: Iterable[str]) -> dict[str, str]:
    """Fingerprints of packages, and of all that they import as far as they are being worked on themselves."""
    found: dict[str, str] = {}
    waiting = sorted(set(packages) - {"__main__"})
    while waiting:
        package = waiting.pop()
        if package in found or not (is_library(package) or _roots(package)):
            continue
        found[package] = package_fingerprint(package)
        if package != OWN and not is_library(package):
            waiting += sorted(imported_packages(package))
    return dict(sorted(found.items()))


def package_fingerprint(package: str) -> str:
    """A hash of the source of a package, or of a module's one file.

    The text counts of what is being worked on, and is read each time. Of what is installed for good size and date of
    the files count, which change with every installation.
    """
    return _library_fingerprint(package) if is_library(package) else _hash(package, by_text=True)


def imported_packages(package: str) -> set[str]:
    """Top-level names that the files of a package import anywhere, inside functions too; maybe some more."""
    names: set[str] = set()
    for _, file in _files(package):
        if file.suffix == ".py":
            for listed in _IMPORT.findall(file.read_text(encoding="utf-8", errors="replace")):
                names |= {name.strip() for name in listed.split(",")}
    return {name for name in names if name not in sys.stdlib_module_names and name != package}


@functools.cache
def _library_fingerprint(package: str) -> str:
    if package in sys.stdlib_module_names:
        return sys.version
    if package == "torch":  # very many files
        return str(getattr(sys.modules.get(package), "__version__", ""))
    return _hash(package, by_text=False)


def _hash(package: str, by_text: bool) -> str:
    sha = hashlib.sha256()
    for name, file in _files(package):
        about = file.stat()
        text = by_text and file.suffix == ".py"
        sha.update(name.encode() + b"\0")
        sha.update(file.read_bytes() if text else f"{about.st_size} {about.st_mtime_ns}".encode())
    return sha.hexdigest()[:16]


def _files(package: str) -> list[tuple[str, Path]]:
    """Names, as seen from where the package lies, and paths of its files of code."""
    found = []
    for root in _roots(package):
        inside = [root] if root.is_file() else sorted(root.rglob("*"))
        found += [(file.relative_to(root.parent).as_posix(), file) for file in inside if file.suffix in _CODE]
    return [(name, file) for name, file in found if file.is_file()]


def _roots(package: str) -> list[Path]:
    """The folders of a package, or the file of a module; none where there are none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):  # a module that was made by hand has no spec
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(folder).resolve() for folder in spec.submodule_search_locations]
    origin = getattr(spec, "origin", None) or getattr(sys.modules.get(package), "__file__", None)
    return [Path(origin).resolve()] if origin and Path(origin).is_file() else []


@functools.cache
def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"]).resolve()
