"""One ablation on several processes (``accelerate launch``, ``torchrun``): the samples are shared out.

Every process judges some of the batches, whole ones, so that each sample is computed as it would be alone.
Time and memory are measured on the first process while the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch

from ..errors import PluginError, reason_of

T = TypeVar("T")
PATIENCE = timedelta(days=2)
"""How long processes wait for the first, which solves, counts and times alone; the usual half an hour is too short."""


class ProcessGroup:
    """The processes of this run. Make one with :func:`team`.

    Attributes:
        rank, size: number of this process, and of all.
        device: where this process should compute, or None for wherever the model is.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def first(self) -> bool:
        """Whether this is the process that times, prints and writes."""
        return self.rank == 0

    def mine(self, index: int) -> bool:
        """Whether this process judges batch ``index``."""
        return index % self.size == self.rank

    def share(self, value: T) -> T:
        """The first process's value, on all."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, on all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def alone(self, work: Callable[[], T]) -> T:
        """Do it on the first process while the others wait, and give all the value; an error is raised on all."""
        value: Any = None
        error: BaseException | None = None
        if self.first:
            try:
                value = work()
            except BaseException as raised:  # the others must not wait for ever
                error = raised
        value, reason = self.share((value, None if error is None else reason_of(error)))
        if error is not None:
            raise error
        if reason is not None:
            raise RuntimeError(reason)
        result: T = value
        return result


def process_group() -> ProcessGroup:
    """The team that this process was launched in; a team of one otherwise.

    Raises:
        PluginError: launched as one of several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ProcessGroup()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise PluginError("several processes need accelerate: pip install 'tokenreduce[lab]'") from error
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return ProcessGroup(state.process_index, state.num_processes, state.device)


def lone_tasks(environment: Mapping[str, str]) -> str | None:
    """What to say where ``srun`` has started several tasks that know nothing of one another; None where it has not.

    Each of them would run the whole ablation. The first says so; the others are silent.
    """
    tasks, number = (environment.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"))
    if not tasks.isdigit() or int(tasks) < 2 or int(environment.get("WORLD_SIZE", "1")) > 1 or number != "0":
        return None
    return (
        f"srun has started {tasks} tasks, and each of them does the whole work, as nothing joins them. Start one task "
        "a node that runs torchrun (or accelerate launch), or give each a part of an ablation: "
        "--part $((SLURM_PROCID + 1))/$SLURM_NTASKS --store FOLDER"
    )
