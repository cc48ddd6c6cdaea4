"""An attachment as files: its config as JSON, and the weights of learnable reducers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .._documents import check_document
from .._documents import read_document as read_json
from .._version import __version__
from ..errors import OptionError, TokenReduceError, UnfitReducerError
from ..methods.factory import check_config, reducer_class
from ..methods.site_reducer import SiteReducer
from ..registry.registry import default_registry

CONFIG, WEIGHTS, FORMAT = "tokenreduce.json", "reducer.safetensors", 1
MOST = 1e6  # times as much as configured


def save(
    given: dict[str, Any], factors: Mapping[str, float], reducers: Mapping[str, SiteReducer], folder: Path
) -> None:
    """See :meth:`Attachment.save`."""
    try:
        config = json.loads(json.dumps(given, allow_nan=False))
        check_config(config)
    except (TypeError, ValueError, TokenReduceError) as error:
        raise OptionError(
            f"this attachment cannot be saved, because it could not be attached again from JSON: {error}. Options "
            "must be numbers, texts, lists or mappings, and a reducer a class at the top of a module that can be "
            "imported"
        ) from error
    tensors = weights(reducers)
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    document = {"format": FORMAT, "config": config, "factors": dict(factors), "versions": versions(config)}
    document["options"] = option_versions(config)
    try:
        _write(folder, json.dumps(document, indent=2) + "\n", tensors)
    except (OSError, SafetensorError) as error:
        raise OptionError(f"the attachment cannot be saved in {folder} ({error}); name another folder") from error


def _write(folder: Path, text: str, tensors: dict[str, Tensor]) -> None:
    """Each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    if tensors:
        save_file(tensors, folder / f"{WEIGHTS}.tmp")
        (folder / f"{WEIGHTS}.tmp").replace(folder / WEIGHTS)
    else:
        (folder / WEIGHTS).unlink(missing_ok=True)
    (folder / f"{CONFIG}.tmp").write_text(text, encoding="utf-8")
    (folder / f"{CONFIG}.tmp").replace(folder / CONFIG)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a saved attachment.

    Raises:
        OptionError: there is none, or it is not what ``save`` writes.
    """
    return dict(read_document(folder)["config"])


def weights(reducers: Mapping[str, SiteReducer]) -> dict[str, Tensor]:
    """Weights and buffers of the learnable reducers, on the CPU, as ``"stack.name"``; gathered from all processes."""
    found: dict[str, Tensor] = {}
    for stack, reducer in reducers.items():
        if isinstance(reducer, nn.Module):
            found |= {f"{stack}.{name}": _whole(value) for name, value in reducer.state_dict().items()}
    return found


def versions(config: Mapping[str, Any]) -> dict[str, str]:
    """Of this package, of torch, and of the packages that brought the reducers."""
    known = default_registry().reducers
    plugins = {known[name].distribution: known[name].version for name in _named(config) if name in known}
    return {**plugins, "tokenreduce": __version__, "torch": str(torch.__version__)}


def option_versions(config: Mapping[str, Any]) -> dict[str, int]:
    """The version of the options of each reducer named in a config (:attr:`BaseReducer.version`)."""
    registry = default_registry()
    return {name: reducer_class(registry, name).version for name in _named(config)}


def check_option_versions(document: Mapping[str, Any], file: Path) -> None:
    """Raise OptionError where a saved attachment has options of another version than the installed reducer's."""
    for name, installed in option_versions(document["config"]).items():
        saved = document["options"].get(name, 1)
        if saved != installed:
            brought = default_registry().reducers.get(name)
            raise OptionError(
                f"{file} holds options of {name!r} in version {saved}, the installed one"
                f"{f' ({brought})' if brought else ''} reads version {installed}, in which they mean something else; "
                "install the package that wrote them (see 'versions' there), or attach again with its options of today"
            )


def _named(config: Any) -> list[str]:
    """The reducers named anywhere in a config: per stack, in a chain, inside another."""
    if isinstance(config, Mapping):
        own = config.get("reducer")
        found = [own] if isinstance(own, str) else []
        return found + [name for value in config.values() for name in _named(value)]
    return [name for value in config for name in _named(value)] if isinstance(config, (list, tuple)) else []


def _whole(value: Tensor) -> Tensor:
    gather = getattr(value, "full_tensor", None)  # of a DTensor, whose parts lie on several processes
    whole: Tensor = value if gather is None else gather()
    return whole.detach().cpu().contiguous().clone()


def read_document(folder: Path) -> dict[str, Any]:
    """All that ``tokenreduce.json`` in a folder holds.

    Raises:
        OptionError: there is none, or it is not what ``save`` writes.
    """
    file = folder / CONFIG
    if not file.exists():
        raise OptionError(f"there is no {CONFIG} in {folder}; handle.save({str(folder)!r}) writes it")
    try:
        given = read_json(file, "save the attachment again")
        version = given.get("format") if isinstance(given, dict) else None
        if not isinstance(version, int) or version == FORMAT:
            return _checked(given)
    except OptionError as error:
        raise OptionError(f"{file} is not what handle.save writes: {error}") from error
    raise OptionError(
        f"{file} has format {version!r}, this version of tokenreduce reads {FORMAT}; it was written by "
        f"{given.get('versions')}"
    )


def _checked(given: Any) -> dict[str, Any]:
    saved = check_document(Saved, given)
    names = [entry.name for entry in dataclasses.fields(SavedConfig)]
    check_document(SavedConfig, {name: value for name, value in saved.config.items() if name in names}, "config")
    refused = sorted({"model", "replace", "guide", "trust"} & saved.config.keys())
    if refused:
        raise OptionError(f"config has no entry {', '.join(refused)}")
    return dataclasses.asdict(saved)


@dataclass
class Saved:
    """What ``tokenreduce.json`` holds."""

    config: dict[str, Any]
    format: Literal[1]
    factors: dict[str, Annotated[float, Ge(0), Le(MOST)]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)


@dataclass
class SavedConfig:
    """What a config holds beside the options of the reducer."""

    reducer: str | dict[str, str | dict[str, Any]]
    adapter: str | None = None
    trace: bool = False
    restore: bool | None = None
    layers: list[int] | None = None
    readout_only: bool = False


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder; empty where no reducer learns.

    Raises:
        OptionError: the file cannot be read.
    """
    file = folder / WEIGHTS
    if not file.exists():
        return {}
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise OptionError(f"{file} is not a file of safetensors ({error}); save it again") from error


@torch.no_grad()
def fill(reducers: Mapping[str, SiteReducer], folder: Path, model: str) -> None:
    """Copy the weights of a folder into the learnable reducers of a model of this class name.

    Raises:
        OptionError: the file cannot be read. UnfitReducerError: names or shapes differ, or it is missing.
    """
    tensors = read_tensors(folder)
    own: dict[str, Tensor] = {}
    for stack, reducer in reducers.items():
        if isinstance(reducer, nn.Module):
            own |= {f"{stack}.{name}": value for name, value in reducer.state_dict().items()}
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    wrong = [f"missing: {name}" for name in sorted(own.keys() - tensors.keys())]
    wrong += [f"not of this reducer: {name}" for name in sorted(tensors.keys() - own.keys())] + sorted(shapes)
    if wrong:
        raise UnfitReducerError(
            f"{folder / WEIGHTS} does not fit the reducer on {model}: {'; '.join(wrong)}. Load "
            "it on a model of the width and depth that it was trained with"
        )
    for name, value in own.items():
        value.copy_(tensors[name])
