"""What several commands read alike: options of a reducer, layers, devices."""

from __future__ import annotations

import json
from typing import Any

from ..errors import OptionError


def parse_options(settings: list[str]) -> dict[str, Any]:
    """``["r=13"]`` to ``{"r": 13}``; a value that is not JSON is taken as text.

    Raises:
        OptionError: not of the form OPTION=VALUE.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise OptionError(f"--set takes OPTION=VALUE, for example r=13, got {setting!r}")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed


def parse_layers(text: str) -> list[int]:
    """``"2,5,8"`` to numbers.

    Raises:
        OptionError: something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--layers takes numbers with commas, for example 2,5,8, got {text!r}") from None


def device_of(named: str | None, own: Any = None) -> Any:
    """The device that was named, else a process's own, else an accelerator if there is one.

    Raises:
        OptionError: there is no such device.
    """
    import torch

    try:
        return torch.device(named) if named else own or ("cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise OptionError(f"--device {named!r}: {error}") from error
