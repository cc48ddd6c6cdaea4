"""Standard output and error of a command: any text can be printed, and whoever reads may stop."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from ..report.formatting import clean


def prepare_streams(plugins: bool = True) -> None:
    """Have every letter printable in any locale, and find the plugins where nothing they print can do harm."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if plugins:
        from ..registry.registry import default_registry

        with _output_of_the_process_apart():
            default_registry()
        if sys.stdout is None or sys.stdout.closed:  # a plugin closed it
            sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


def complain(text: str) -> None:
    """Say what is wrong on the error stream, without what could command the terminal."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tokenreduce: {clean(text)}", file=sys.stderr)


def finish(code: int) -> int:
    """Write what is still held back; the exit code, another one where that fails."""
    try:
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        complain(f"the output cannot be written ({getattr(error, 'strerror', None) or error})")
        code = code or 1
    with contextlib.suppress(OSError, ValueError):  # or Python would try once more at its end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return code


@contextlib.contextmanager
def _output_of_the_process_apart() -> Iterator[None]:
    """Standard output is the error stream meanwhile, also for code that writes to the file descriptor."""
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
