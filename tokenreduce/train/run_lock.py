"""One run at a time in a folder, and what is said when the folder cannot be written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import OptionError

LOCK = ".lock"
OF_TORCH = ("PytorchStreamWriter", "inline_container")  # where torch cannot write a file it raises a RuntimeError


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """A context that a folder has to itself; the system lets go of it when the process ends, however it does.

    Raises:
        OptionError: another run is at work there, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise OptionError(
            f"another run is at work in {folder}; wait until it has ended, or name another folder with --out"
        ) from None
    except OSError as error:
        raise OptionError(f"{folder} cannot hold the run ({error}); name another folder with --out") from error
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not isinstance(error, RuntimeError) or any(word in str(error) for word in OF_TORCH):
            raise OptionError(
                f"the run in {folder} cannot be written ({error}); make room there and start it again: it goes on from "
                "its last checkpoint"
            ) from error
        raise
    finally:
        lock.release()
