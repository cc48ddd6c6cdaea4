"""Folders of pictures, one per class. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import OptionError
from .loader import Record

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Ends of the names of picture files."""


class FolderRecords(list[Record]):
    """The pictures of a folder; the answer of each is the name of its class's folder.

    Attributes:
        classes: the names in sorted order, which is how torchvision and timm number classes.
    """

    def __init__(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        super().__init__(records)
        self.classes = tuple(classes)


def read_folder(path: Path) -> FolderRecords:
    """The pictures in a folder with one folder per class, at any depth beneath it, by turns of the classes.

    By turns, so that the first thousand of a large data set are of all its classes.

    Raises:
        OptionError: no folder in it, or no picture in one of them.
    """
    try:
        classes = sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        raise OptionError(f"the folder {path} cannot be read ({error}); give another one") from error
    if not classes:
        raise OptionError(
            f"{path} has no folders in it; a folder of data has one folder of pictures per class (cat/1.jpg, dog/2.jpg)"
        )
    found = {name: list(pictures(path / name)) for name in classes}
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise OptionError(
            f"{path} has folders without a picture ({', '.join(PICTURES)}): {', '.join(empty[:5])}; take them out, or "
            "give the folder whose folders are the classes"
        )
    turns = max(map(len, found.values()))
    files = [(name, found[name][turn]) for turn in range(turns) for name in classes if turn < len(found[name])]
    return FolderRecords([Record(image=file, answers=(name,)) for name, file in files], classes)


def pictures(folder: Path) -> Iterator[Path]:
    """The picture files in a folder and below it, in sorted order."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(PICTURES):
                yield Path(place) / name


def is_folder(path: Path) -> bool:
    """Whether there is a folder that can be looked at."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
