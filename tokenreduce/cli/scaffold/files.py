"""The files of a new plugin, as text and on disk."""

from __future__ import annotations

import shlex
from pathlib import Path
from string import Template

from ...errors import OptionError
from ...registry.hookspecs import INTERFACE
from .names import Names

KINDS = ("reducer", "adapter", "task")
SUFFIX = ".tmpl"
_TRY = {
    "reducer": "tokenreduce ablate --reducers none,random,{} --match-macs 0.6 --samples 200",
    "adapter": "tokenreduce coverage {}",
    "task": "tokenreduce ablate --model {} --samples 32",
}


def render(kind: str, names: Names) -> dict[str, str]:
    """The files of a plugin of this kind: text by path, relative to its folder, with ``/``."""
    folder = Path(__file__).parent / kind
    values = {
        "name": names.name,
        "distribution": names.distribution,
        "package": names.package,
        "class_name": names.class_name,
        "interface": str(INTERFACE),
    }
    files = {}
    for file in sorted(folder.rglob(f"*{SUFFIX}")):
        first, *rest = file.relative_to(folder).parts
        path = "/".join([names.package if first == "package" else first, *rest])
        files[path.removesuffix(SUFFIX)] = Template(file.read_text(encoding="utf-8")).substitute(values)
    return files


def write(files: dict[str, str], folder: Path) -> None:
    """Write the files below a folder that is not there yet, or empty.

    Raises:
        OptionError: there is something in it, or it cannot be written.
    """
    if not folder.parent.is_dir():
        raise OptionError(f"the folder {folder.parent} does not exist; make it first, or name another with --into")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OptionError(
            f"{folder} is there already and is not overwritten; choose another name, name another parent folder with "
            "--into FOLDER, or remove it"
        )
    try:
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8", newline="\n") as out:
                out.write(text)
    except OSError as error:
        raise OptionError(f"{folder} cannot be written ({error}); name another folder with --into") from error


def next_steps(kind: str, names: Names, folder: Path) -> list[str]:
    """The commands to type next."""
    return [
        f"cd {shlex.quote(str(folder))}",
        "pip install -e '.[test]'",
        "tokenreduce list --check",
        "pytest",
        _TRY[kind].format(names.name),
    ]
