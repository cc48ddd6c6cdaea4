"""Checkpoints: files that are whole or not there, read without running any code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Have ``write(path)`` write a file beside ``file``, then put it in its place: a crash leaves the old one."""
    partial = file.with_name(file.name + ".tmp")
    write(partial)
    partial.replace(file)


def save_checkpoint(file: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers and strings, nested in dictionaries and lists."""
    write_atomically(file, lambda path: torch.save(dict(state), path))


def load_checkpoint(file: Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote, tensors on the CPU; None if there is no such file.

    Raises:
        OptionError: it cannot be read.
    """
    if not file.exists():
        return None
    try:
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds
        raise OptionError(f"{file} cannot be read ({type(error).__name__}: {error}); remove it to start over") from None
