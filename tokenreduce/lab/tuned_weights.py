"""Fine-tuned weights under a row: folders that ``handle.save`` and a fine-tuning have written."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..attachments.checkpoint import fill, read_config
from ..attachments.handle import Attachment
from ..errors import OptionError
from ..tasks.task import Task
from ..train.weights import load_weights, of_reducer_alone, weights_digest


def tuned_model(model: nn.Module, folder: str) -> nn.Module:
    """A copy of a model with the weights of a folder; the model itself is left as it is.

    Where the folder holds a reducer's weights alone, the copy has those of the model.

    Raises:
        OptionError: there are none. UnfitReducerError: they are of another model.
    """
    made = copy.deepcopy(model)
    if not of_reducer_alone(folder):
        load_weights(made, folder)
    return made


def tuned_task(task: Task, folder: str) -> Task:
    """The task with such a model."""
    return dataclasses.replace(task, model=tuned_model(task.model, folder))


def full_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a variant with ``"weights"``: those that it was fine-tuned with, others that are given over them.

    Raises:
        OptionError: the folder does not hold fine-tuned weights.
    """
    given = dict(options)
    folder = Path(str(given.pop("weights")))
    weights_digest(folder)
    left = ("adapter", "trace", "restore", "readout_only")
    saved = {name: value for name, value in read_config(folder).items() if name not in left}
    if "reducer" in given and given["reducer"] != saved["reducer"]:
        raise OptionError(
            f"the weights in {folder} were fine-tuned with {saved['reducer']!r}, not with {given['reducer']!r}; leave "
            "the reducer out, or name other weights"
        )
    return {**saved, **given, "weights": str(folder)}


def load_reducer_weights(handle: Attachment, folder: str) -> Attachment:
    """The attachment with the reducer's own weights of a folder, where it learns."""
    try:
        fill({name: one.reducer for name, one in handle.stacks.items()}, Path(folder), type(handle.model).__name__)
    except BaseException:
        handle.detach()
        raise
    return handle


def label_of(folder: str | Path, taken: Mapping[str, Any]) -> str:
    """What to call the row of a folder: ``"REDUCER tuned"``, with a number where there is one already."""
    reducer = read_config(Path(folder))["reducer"]
    parts = [part["reducer"] for part in reducer.values()] if isinstance(reducer, Mapping) else [reducer]
    label = f"{' + '.join(map(str, parts))} tuned"
    number = 2
    while label in taken:
        label, number = f"{label.partition(' tuned')[0]} tuned {number}", number + 1
    return label
