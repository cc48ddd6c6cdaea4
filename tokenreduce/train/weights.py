"""A model's own weights as a file, beside the reducer's: what a fine-tuned model is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..attachments.checkpoint import WEIGHTS
from ..engine.binding import SUBMODULE
from ..errors import OptionError, UnfitReducerError
from .checkpoint import write_atomically

FILE = "model.safetensors"


def save_weights(model: nn.Module, folder: Path, half: bool = False, name: str = FILE) -> None:
    """Write ``model.safetensors``: the ``state_dict`` without what belongs to a reducer, tied weights once.

    Args:
        name: of the file, in place of ``model.safetensors``.
        half: floating-point numbers in half precision; :func:`load_weights` turns them back.
    """
    tensors = {
        key: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for key, value in unique(own_state(model)).items()
    }
    write_atomically(folder / name, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


@torch.no_grad()
def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Copy weights that :func:`save_weights` wrote into a model of the same shape, keeping its dtype and device.

    Raises:
        OptionError: the file is missing or is not one of safetensors.
        UnfitReducerError: names or shapes differ; the message names them. The model is untouched then.
    """
    file = Path(folder) / FILE
    tensors, state = _read(file), own_state(model)
    same = {_storage_key(state[name]) for name in tensors.keys() & state.keys()}
    wrong = [f"missing: {name}" for name in state if name not in tensors and _storage_key(state[name]) not in same]
    wrong += [f"not of this model: {name}" for name in sorted(tensors.keys() - state.keys())]
    wrong += [
        f"{name} is {tuple(value.shape)}, expected {tuple(state[name].shape)}"
        for name, value in tensors.items()
        if name in state and value.shape != state[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UnfitReducerError(
            f"{file} does not fit {type(model).__name__}: {'; '.join(wrong[:5])}{more}. Load it on a model like the "
            "one that was fine-tuned"
        )
    for name, value in tensors.items():
        state[name].copy_(value)


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` without the submodules of learnable reducers."""
    return {name: value for name, value in model.state_dict().items() if SUBMODULE not in name.split(".")}


def unique(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors that are one and the same (tied weights) only the first."""
    seen: set[Any] = set()
    kept = {}
    for name, value in state.items():
        if _storage_key(value) not in seen:
            seen.add(_storage_key(value))
            kept[name] = value
    return kept


def weights_digest(folder: str | Path) -> str:
    """A hash of all that a folder of fine-tuned weights holds: a model's, a learnable reducer's, or both.

    Raises:
        OptionError: there are none in it.
    """
    files = sorted(file for file in Path(folder).glob("*") if file.suffix in (".safetensors", ".json"))
    if not any(file.name in (FILE, WEIGHTS) for file in files):
        raise OptionError(
            f"expected fine-tuned weights ({FILE}, or {WEIGHTS} for a reducer on the model as it is) in {folder}; "
            "'tokenreduce finetune' writes them"
        )
    sha = hashlib.sha256()
    for file in files:
        sha.update(file.name.encode() + file.read_bytes())
    return sha.hexdigest()[:16]


def of_reducer_alone(folder: str | Path) -> bool:
    """Whether a folder holds weights of a reducer and none of a model, as ``handle.save`` writes it."""
    return (Path(folder) / WEIGHTS).is_file() and not (Path(folder) / FILE).is_file()


def _storage_key(value: Tensor) -> tuple[Any, ...]:
    if not value.numel():
        return (id(value),)
    return value.data_ptr(), value.device, tuple(value.shape), value.stride()


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise OptionError(f"there is no {FILE} in {file.parent}; 'tokenreduce finetune' writes it")
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise OptionError(f"{file} is not a file of safetensors ({error}); save it again") from error
