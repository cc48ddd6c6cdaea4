"""A published number beside the one that is measured with this code, on a checkpoint and data that are given.

A preset says what was published: of which model on which data, with which reducer. What differs from the publication
(the model's shape, the number of samples) is said, not hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .._documents import check_document
from ..errors import OptionError, UnsupportedModelError
from ..registry.registry import Registry
from ..tasks.inputs import image_size
from ..tasks.task import Task
from .request import Request
from .result import Result, Row
from .statistics import interval
from .store import Store
from .task_run import full_request, run_task


@dataclass(frozen=True)
class Setting:
    """One row of a published table.

    Attributes:
        reducer, options: what was run, as for :func:`tokenreduce.attach`.
        published: the score in percent.
        label: what the row is called.
    """

    reducer: str
    published: float
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Publication:
    """What was published of one model on one data set.

    Attributes:
        paper, table: where it stands.
        model: the model in words.
        classes: names of the classes of which a checkpoint must hold one.
        data: the data set in words.
        score: what the numbers are, in words.
        settings: the rows.
        full: the score of the model without reduction in percent, None where it is not stated.
        metric: one of the task's further metrics, None for its own.
        depth, image: number of blocks and side of the pictures in pixels.
        remarks: what else a reader must know.
    """

    paper: str
    table: str
    model: str
    classes: list[str]
    data: str
    score: str
    settings: list[Setting]
    full: float | None = None
    metric: str | None = None
    depth: int | None = None
    image: int | None = None
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """One row of the comparison, in percent; ``low`` and ``high`` bound the measured one (95 %)."""

    label: str
    published: float | None
    measured: float
    low: float
    high: float

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.published is None else self.measured - self.published


@dataclass(frozen=True)
class Reproduction:
    """What came out.

    Attributes:
        name: of the preset.
        lines: the rows, the model without reduction first.
        remarks: what differs from the publication, and what must be known.
        result: the ablation behind it.
    """

    name: str
    publication: Publication
    lines: list[Line]
    remarks: list[str]
    result: Result


def publication(registry: Registry, name: str) -> Publication:
    """What a preset says was published.

    Raises:
        UnknownNameError, PluginError, OptionError: no such preset, or one that is not as it should be.
    """
    with registry.blame("reproduction", name):
        made = registry.load("reproduction", name)()
    if isinstance(made, Publication):
        return made
    found: Publication = check_document(Publication, made, f"reproduction {name}")
    return found


def reproduce(
    registry: Registry, name: str, task: Task, *, samples: int, batch: int, store: Store | None = None
) -> Reproduction:
    """Run what a preset asks for on a task.

    Args:
        task: a checkpoint with its data.
        samples, batch: how many samples, in batches of what size.

    Raises:
        UnsupportedModelError: the checkpoint holds no model of the class that the preset is about.
        OptionError: one of the rows failed, and why.
    """
    told = publication(registry, name)
    model = model_of(task.model, told)
    variants: dict[str, dict[str, Any]] = {}
    for setting in told.settings:
        variants[setting.label or setting.reducer] = {"reducer": setting.reducer, **setting.options}
    asked = Request(
        model=task.name,
        samples=samples,
        batch=batch,
        batch_sizes=[1],
        rounds=1,
        seeds=1,
        break_even=False,
        pictures=0,
        metric=told.metric,
        variants={"none": {}, **variants},
    )
    result = run_task(full_request(registry, asked, task, {}), task, store=store)
    rows = {row.name: row for row in result.rows}
    published = {"none": told.full, **{s.label or s.reducer: s.published for s in told.settings}}
    lines = [line(rows[label], label, value) for label, value in published.items()]
    first = task.data(1, 1)[0]
    remarks = [*differences(told, model, image_size(first.inputs), len(rows["none"].scores)), *told.remarks]
    return Reproduction(name, told, lines, remarks, result)


def line(row: Row, label: str, published: float | None) -> Line:
    """A row of the comparison.

    Raises:
        OptionError: the row failed.
    """
    if row.failed is not None:
        raise OptionError(f"{label} cannot be run on this checkpoint: {row.failed}")
    low, high = interval(row.scores)
    measured = sum(row.scores) / len(row.scores)
    return Line("no reduction" if label == "none" else label, published, 100 * measured, 100 * low, 100 * high)


def model_of(module: nn.Module, told: Publication) -> nn.Module:
    """The model that the publication is about, in whatever a loader has put around it.

    Raises:
        UnsupportedModelError: there is none.
    """
    for part in module.modules():
        if {kind.__name__ for kind in type(part).__mro__} & set(told.classes):
            return part
    raise UnsupportedModelError(
        f"this preset is about {told.model}: expected a checkpoint of {' or '.join(told.classes)}, got a "
        f"{type(module).__name__}; give one with --model, or choose another preset ('tokenreduce reproduce' lists them)"
    )


def differences(told: Publication, model: nn.Module, size: tuple[int, int] | None, samples: int) -> Iterator[str]:
    """What is not as it was in the publication."""
    depth = depth_of(model)
    if told.depth is not None and depth is not None and depth != told.depth:
        yield f"the model has {depth} blocks, the published one {told.depth}: its numbers are not comparable"
    if told.image is not None and size is not None and max(size) != told.image:
        yield f"pictures are {size[0]} x {size[1]} pixels, published were {told.image} x {told.image}"
    yield f"measured on {samples} samples; published: {told.data}"


def depth_of(model: nn.Module) -> int | None:
    """Blocks of the longest list of blocks in a model."""
    lists: Sequence[nn.Module] = [part for part in model.modules() if isinstance(part, (nn.ModuleList, nn.Sequential))]
    return max((len(part) for part in lists if _alike(part)), default=None)  # type: ignore[arg-type]


def _alike(parts: Any) -> bool:
    kinds: Mapping[type, int] = {type(part): 1 for part in parts}
    return len(kinds) == 1 and len(parts) > 1
