"""What several commands read alike: options of a reducer, layers, devices."""

from __future__ import annotations

import json
from typing import Any

from ..errors import OptionError
from ..registry.registry import Registry


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
        except (ValueError, RecursionError):
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


def reducer_options(settings: list[str], layers: str | None) -> dict[str, Any]:
    """The options of a reducer that ``--set`` and ``--layers`` give.

    Raises:
        OptionError: of another form, or the reducer itself among them.
    """
    options = parse_options(settings)
    if "reducer" in options:
        raise OptionError("--set takes options of the reducer; name the reducer itself with --reducer")
    return options if layers is None else {**options, "layers": parse_layers(layers)}


def add_trust(parser: Any) -> None:
    """The flag that lets files name code."""
    parser.add_argument(
        "--trust", action="store_true", help="import classes that files name by their module; without, none are"
    )


def own_variants(registry: Registry, model: str | None) -> tuple[str, ...] | None:
    """The variants that a task has of its own, as far as its spec says; None where only its settings do."""
    entry = registry.tasks.get(model or "")
    return () if entry is None else getattr(entry.spec, "variants", None)


def device_of(named: str | None, own: Any = None) -> Any:
    """The device that was named, else a process's own, else an accelerator if there is one.

    Raises:
        OptionError: there is no such device here.
    """
    import torch

    if not named:
        return own or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
        if device.type == "meta":
            raise ValueError("it holds no numbers")
        torch.empty(1, device=device)
    except Exception as error:  # torch raises what it likes for what is not there
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = str(error).strip().partition("\n")[0]
        raise OptionError(
            f"--device {named}: there is no such device here ({reason}); there is {', '.join(here)}"
        ) from error
    return device


def move(model: Any, device: Any) -> None:
    """Put a model on a device.

    Raises:
        OptionError: it does not fit.
    """
    try:
        model.to(device)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OptionError(f"--device {device}: the model cannot be put there ({reason}); try --device cpu") from error
