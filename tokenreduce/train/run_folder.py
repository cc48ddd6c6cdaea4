"""The folder of one fine-tuning: settings, log, the last checkpoint, the best weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..attachments.handle import Attachment
from ..errors import OptionError
from .checkpoint import write_atomically
from .weights import save_weights

RUN, LOG, CHECKPOINT, BEST = "run.json", "log.jsonl", "checkpoint.pt", "best"


class RunFolder:
    """Where a run keeps what it needs to resume, and what it has found; every file is whole or not there.

    Attributes:
        path: the folder.
        checkpoint: the file from which the run resumes.
        best: with ``model.safetensors``, ``tokenreduce.json``, ``best.json``, and the reducer's weights if it learns.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.best, self.checkpoint = path, path / BEST, path / CHECKPOINT

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, or check that they are those of the run that is here already.

        Raises:
            OptionError: it holds another run, or cannot be written to.
        """
        file, wanted = self.path / RUN, json.loads(json.dumps(settings))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                _write_text(file, json.dumps(wanted, indent=2) + "\n")
            known = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise OptionError(f"{self.path} cannot hold the run ({error}); name another folder with --out") from error
        if known != wanted:
            apart = ", ".join(_differences(known, wanted))
            raise OptionError(f"{self.path} holds a run with other settings: {apart}. Name another folder with --out")

    def rewind(self, step: int | None) -> None:
        """Make it the folder of a run that stands at this step: later lines of the log go. None: nothing was saved."""
        old = self.path / f"{BEST}.old"
        if old.exists() and not self.best.exists():  # killed between two renames
            old.rename(self.best)
        if step is None:
            (self.path / LOG).unlink(missing_ok=True)
            return
        kept = [line for line in self.log() if line["step"] <= step]
        _write_text(self.path / LOG, "".join(json.dumps(line) + "\n" for line in kept))

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log; it has a ``"step"``."""
        with (self.path / LOG).open("a") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log; one that was cut short by a crash is left out."""
        file, lines = self.path / LOG, []
        for text in file.read_text().splitlines() if file.exists() else []:
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def save_best(self, handle: Attachment, facts: Mapping[str, Any]) -> None:
        """Put the model as it is now in the place of the best one so far, with facts about it."""
        new, old = self.path / f"{BEST}.new", self.path / f"{BEST}.old"
        shutil.rmtree(new, ignore_errors=True)
        handle.save(new)
        save_weights(handle.model, new)
        _write_text(new / "best.json", json.dumps(dict(facts), indent=2) + "\n")
        shutil.rmtree(old, ignore_errors=True)
        if self.best.exists():
            self.best.rename(old)
        new.rename(self.best)
        shutil.rmtree(old, ignore_errors=True)


def _write_text(file: Path, text: str) -> None:
    write_atomically(file, lambda path: path.write_text(text))


def _differences(known: Any, wanted: Any, path: str = "") -> list[str]:
    if isinstance(known, dict) and isinstance(wanted, dict):
        names = [*wanted, *(name for name in known if name not in wanted)]
        return [
            text
            for name in names
            for text in _differences(known.get(name), wanted.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if known == wanted else [f"{path} is {json.dumps(known)} there and {json.dumps(wanted)} here"]
