"""What an ablation is asked for, as data: from flags, a TOML or JSON file, a preset, or an earlier result."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .plan import check_fields, check_levels, parse_ratios

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Request:
    """All that decides an ablation; ``setup["request"]`` of a result holds it.

    Attributes:
        model: name of a task, or of a model for a loader; None for the first task.
        data: file of samples, for a loader.
        variants: options by name, ``"reducer"`` and ``"layers"`` among them; None for every reducer of the registry
            with the task's own settings.
        ratios, match_macs: levels, see :func:`tokenreduce.ablate`.
        samples, batch: how many samples, in batches of what size.
        batch_sizes: to time; None for 1, 8 and ``batch``.
        rounds, seeds, seed: see :func:`tokenreduce.ablate`.
        break_even: whether to time other picture sizes.
        pictures: samples to draw.
    """

    model: str | None = None
    data: str | None = None
    variants: dict[str, dict[str, Any]] | None = None
    ratios: list[float] = field(default_factory=list)
    match_macs: list[float] = field(default_factory=list)
    samples: int = 1000
    batch: int = 50
    batch_sizes: list[int] | None = None
    rounds: int = 7
    seeds: int = 3
    seed: int = 0
    break_even: bool = True
    pictures: int = 4

    def with_(self, **changes: Any) -> Request:
        """A copy with the changes that are not None, checked."""
        return check_request(replace(self, **{name: value for name, value in changes.items() if value is not None}))

    def to_json(self) -> dict[str, Any]:
        """JSON-able; :func:`from_mapping` takes it back."""
        return asdict(self)


def request_from_mapping(given: Mapping[str, Any], where: str) -> Request:
    """A request from what a file holds.

    Raises:
        OptionError: an unknown entry, or one of the wrong kind; ``where`` names the file.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"{where} holds a table of entries (samples = 1000, [variants.NAME] ...), got {given!r}")
    check_fields(given, [f.name for f in fields(Request)], where)
    values = dict(given)
    for name in ("ratios", "match_macs"):
        if isinstance(values.get(name), str):
            values[name] = parse_ratios(values[name])
        elif isinstance(values.get(name), (int, float)):
            values[name] = [values[name]]
    return check_request(Request(**values), where)


def read_request(path: str | Path) -> Request:
    """A request from a TOML or JSON file; of the JSON of a result, what it was asked for.

    Raises:
        OptionError: no such file, or it cannot be read as one.
    """
    path = Path(path)
    try:
        text = path.read_text()
        given = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; name a TOML or JSON file") from error
    except ValueError as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise OptionError(f"{path} is not valid {kind}: {error}") from error
    if isinstance(given, dict) and "setup" in given:
        given = given["setup"].get("request", {})
    return request_from_mapping(given, str(path))


def check_request(request: Request, where: str = "the ablation") -> Request:
    """The request itself.

    Raises:
        OptionError: a value outside its range.
    """
    for name in ("samples", "batch", "rounds", "seeds"):
        _count(getattr(request, name), name, where, 1)
    _count(request.pictures, "pictures", where, 0)
    if isinstance(request.seed, bool) or not isinstance(request.seed, int):
        raise OptionError(f"{where}: seed is a whole number, got {request.seed!r}")
    for size in request.batch_sizes or []:
        _count(size, "batch_sizes", where, 1)
    check_levels(request.ratios, request.match_macs)
    if request.variants is not None and not request.variants:
        raise OptionError(f"{where} names no variants; give some, or leave the entry out for every reducer")
    for name, options in (request.variants or {}).items():
        if not isinstance(options, Mapping):
            raise OptionError(f"{where}: variant {name!r} is a table of options, got {options!r}")
    return request


def _count(value: Any, name: str, where: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{where}: {name} must be {least} or more, got {value!r}")
