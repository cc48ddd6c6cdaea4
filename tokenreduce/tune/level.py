"""Options with which a reducer leaves a share of the multiply-adds, for a task's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..attaching import attach
from ..handle import Attachment
from ..lab.data import on_device
from ..lab.solve import solved_options
from ..lab.task import Task
from ..measure.macs import count_macs
from ..proof import evaluating


def levelled(task: Task, arguments: Mapping[str, Any], share: float, samples: int = 8) -> dict[str, Any]:
    """Arguments for ``attach`` with which the reducer leaves about this share of the model's multiply-adds.

    Args:
        task: whose model, and first samples, it is measured on.
        arguments: of ``attach``, ``"reducer"`` among them.
        share: between 0 and 1.

    Raises:
        UnfitReducerError: it cannot come down to that.
    """
    model = task.model
    batch = on_device(task.data(samples, samples)[0], next(model.parameters()).device)

    def put(given: Mapping[str, Any]) -> Attachment:
        return attach(model, **given)

    with evaluating(model):
        with put(arguments) as handle, handle.paused():
            dense = count_macs(model, batch.inputs, samples=samples)
        return solved_options(model, put, batch.inputs, arguments, samples, ratio=None, share=share, dense=dense)
