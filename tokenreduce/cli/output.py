"""Where the words of a command go: the terminal, and files that are known to be writable before the work begins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import OptionError

STDOUT = Path("-")


def check_writable(flag: str, path: Path | None) -> None:
    """Try to open a file that will be written at the end, and leave no trace of it.

    Raises:
        OptionError: it cannot be written.
    """
    if path is None or path == STDOUT:
        return
    if not path.resolve().parent.is_dir():
        raise OptionError(f"{flag}: the folder {path.parent} does not exist; make it first")
    known = path.exists()
    try:
        with path.open("a"):
            pass
        if not known:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"{flag}: {path} cannot be written ({error.strerror}); name another file") from error


def write(flag: str, path: Path, made: str | bytes) -> None:
    """Write a file, or standard output for ``-``.

    Raises:
        OptionError: it cannot be written.
    """
    try:
        if path == STDOUT:
            sys.stdout.write(str(made))
            sys.stdout.flush()
        else:
            path.write_bytes(made if isinstance(made, bytes) else made.encode())
    except OSError as error:
        raise OptionError(f"{flag}: {path} cannot be written ({error.strerror}); name another file") from error


def quiet_progress_bars() -> None:
    """No bars of the libraries that load models, beside the command's own; to be called before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
