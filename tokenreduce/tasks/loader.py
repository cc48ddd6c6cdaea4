"""Models by name: a loader turns what follows ``--model``, and a file of samples, into a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError

if TYPE_CHECKING:
    from .task import Task


@dataclass(frozen=True)
class Record:
    """One line of a data file, or one picture of a folder (see :func:`tokenreduce.tasks.records.read_records`).

    Args:
        image: the picture's file.
        text: question or caption, "" for none.
        answers: right answers; several of them are the votes of several people (VQA).
        choices: answers to choose among, for models that score texts; empty for the answers of the whole file.
        group: for a score per group, "" for none.
        more: further pictures of the same record, for models that compare several.
    """

    image: Path
    text: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str = ""
    more: tuple[Path, ...] = ()


class Loader:
    """Makes tasks of models that are named: a hub id, a folder, a file. ``tokenreduce_loaders`` yields it.

    Attributes:
        guesses: it accepts names that may be another loader's too (any ``owner/name``), and is asked last.
    """

    guesses: bool = False

    def accepts(self, name: str) -> bool:
        """Whether the name can be of this loader's kind; cheap, and without a network."""
        raise OptionError(f"{type(self).__name__} does not define accepts(name)")

    def task(self, name: str, records: Sequence[Record]) -> Task:
        """The model and the records as a task; records may be empty, when only pictures are shown.

        Raises:
            UnsupportedModelError: the model is not one that this loader can ask.
            OptionError: records that do not suit the model, or a file that is not there.
        """
        raise OptionError(f"{type(self).__name__} does not define task(name, records)")

    def model(self, folder: str, **options: Any) -> Any:
        """The model alone, of a folder with its files, in evaluation mode: for :func:`tokenreduce.from_pretrained`.

        Args:
            **options: for what reads it, such as ``device_map``.

        Raises:
            UnsupportedModelError: it cannot be read.
        """
        raise OptionError(f"{type(self).__name__} does not define model(folder), so it reads no models by themselves")
