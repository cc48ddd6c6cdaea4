"""The flags of an ablation, read off :class:`tokenreduce.lab.request.Request`, and the request that they ask for."""

from __future__ import annotations

import argparse
import json
from dataclasses import Field, fields
from typing import Any

from ..errors import OptionError
from ..lab.levels import parse_ratios
from ..lab.request import Request, read_request, request_from_mapping
from ..registry.registry import Registry

FIELDS: dict[str, Field[Any]] = {entry.name: entry for entry in fields(Request) if entry.metadata}


def add_flags(group: Any, *names: str) -> None:
    """A flag for each of these fields of a request."""
    for name in names:
        entry, flag = FIELDS[name], f"--{name.replace('_', '-')}"
        said, metavar = entry.metadata["help"], entry.metadata["metavar"]
        if entry.default is False:
            group.add_argument(flag, dest=name, action="store_const", const=True, help=said)
        elif entry.default is True:
            group.add_argument(f"--no{flag[1:]}", dest=name, action="store_const", const=False, help=said)
        elif isinstance(entry.default, int):
            group.add_argument(flag, type=int, help=f"{said} ({entry.default})")
        else:
            group.add_argument(flag, metavar=metavar, help=said)


def build_request(registry: Registry, arguments: argparse.Namespace) -> Request:
    """The request: from a grid, preset or result if one is named, with the flags over it.

    Raises:
        OptionError: a file or a value that is not as it should be. UnknownNameError, PluginError: no such preset.
    """
    request = Request()
    if arguments.grid or arguments.repeat:
        request = read_request(arguments.grid or arguments.repeat, arguments.model)
    elif arguments.preset:
        request = preset(registry, arguments.preset)
    flags: dict[str, Any] = {name: getattr(arguments, name) for name in FIELDS}
    if arguments.batch_sizes:
        flags["batch_sizes"] = numbers(arguments.batch_sizes, "--batch-sizes")
    for name, other in (("ratios", "match_macs"), ("match_macs", "ratios")):
        if getattr(arguments, name):
            flags[name], flags[other] = parse_ratios(getattr(arguments, name)), []
    if arguments.reducers:
        names = [name.strip() for name in arguments.reducers.split(",") if name.strip()]
        known = request.variants or {}
        flags["variants"] = {name: known.get(name, {}) for name in dict.fromkeys(names)}
    request = with_flags(request, flags)
    if request.model is None:
        if not registry.tasks:
            raise OptionError("no task is installed; try: pip install 'tokenreduce[all]', then see 'tokenreduce list'")
        request = request.with_(model=next(iter(registry.tasks)))
    return request


def with_flags(request: Request, flags: dict[str, Any]) -> Request:
    """The request with flags over it; a message about a field names its flag."""
    try:
        return request.with_(**flags)
    except OptionError as error:
        field, _, rest = str(error).partition(" ")
        if flags.get(field.partition("[")[0]) is None or field.startswith(("ratios", "match_macs", "variants")):
            raise
        raise OptionError(f"--{field.replace('_', '-')} {rest}") from None


def preset(registry: Registry, name: str) -> Request:
    """The request of a plugin; what it names by module is imported, as the plugin's own code may."""
    from ..lab.preflight import import_named

    with registry.blame("preset", name):
        made = registry.load("preset", name)()
    request = made if isinstance(made, Request) else request_from_mapping(made, f"preset {name}")
    import_named(request.variants)
    return request


def numbers(text: str, flag: str) -> list[int]:
    """``"1,8,50"`` to whole numbers.

    Raises:
        OptionError: something else.
    """
    try:
        return sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise OptionError(f"{flag} takes whole numbers with commas, for example 1,8,50, got {text!r}") from None


def check_overrides(overrides: dict[str, dict[str, Any]], names: list[str]) -> None:
    """Raise OptionError when an option is given for something that will not run."""
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        raise OptionError(
            f"--set names {', '.join(unknown)}, which is not among the reducers {', '.join(names)}; "
            "add it to --reducers"
        )


def parse_settings(settings: list[str]) -> dict[str, dict[str, Any]]:
    """``["tome.r=13"]`` to ``{"tome": {"r": 13}}``; a value that is not JSON is taken as text.

    Raises:
        OptionError: not of the form REDUCER.OPTION=VALUE.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for setting in settings:
        left, equals, value = setting.partition("=")
        reducer, dot, option = left.rpartition(".")
        if not equals or not dot or not reducer or not option:
            raise OptionError(f"--set takes REDUCER.OPTION=VALUE, for example tome.r=13, got {setting!r}")
        try:
            parsed.setdefault(reducer, {})[option] = json.loads(value)
        except (ValueError, RecursionError):
            parsed.setdefault(reducer, {})[option] = value
    return parsed
