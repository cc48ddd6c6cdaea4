"""What every cell of an ablation needs: the model, the data, the clock's candidates, and where cells are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from .._torch import Inputs, call
from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach
from ..attachments.resizing import resize_model
from ..backbones.dispatch import device_of
from ..errors import OptionError
from ..registry.targets import names_from_file
from ..tasks.data import Batches, cut, on_device
from ..tasks.fingerprint import join_fingerprints, sample_fingerprints
from ..tasks.inputs import resize_inputs
from ..tasks.task import NO_GROUP, Batch
from ..train.weights import weights_digest
from .dependencies import Dependencies
from .distributed import ProcessGroup
from .reducer_objects import make_objects
from .result import Row
from .store import Store, key_of
from .tuned_weights import load_reducer_weights, tuned_model

Tick = Callable[[str], None]
Finite = Annotated[float, Ge(-1e9), Le(1e9)]  # a number in a cell


@dataclass
class Context:
    """One model on one data set.

    Attributes:
        depends: what cells depend on beside options and data.
        data: fingerprint of all samples, whatever batches they stand in.
        prints, sizes: fingerprint and number of samples of each batch; ``groups`` of each sample.
        first: the first batch, for timing.
        cost_batch: samples of the batch that multiply-adds and memory are counted on.
        trust: whether classes are imported because a folder of fine-tuned weights names them.
        ask: gives the output that the metric reads.
        drawing: by row, the stacks whose reducer draws and takes a seed.
        tick: called with what has just been done.
    """

    model: nn.Module
    batches: Batches
    metric: Callable[[Any, Any], Tensor]
    store: Store
    team: ProcessGroup
    depends: Dependencies
    tick: Tick
    trust: bool = False
    ask: Callable[[nn.Module, Inputs], Any] = call
    data: str = ""
    prints: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    first: Batch | None = None
    cost_batch: int = 1
    drawing: dict[str, set[str]] = field(default_factory=dict)
    _models: dict[tuple[str, tuple[int, int] | None], nn.Module] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    def survey(self) -> None:
        """Go through the data once: sizes, fingerprints, groups, the first batch.

        Raises:
            OptionError: there are no samples, or not a group for each.
        """
        samples: list[str] = []
        unknown: list[str] = []
        groups: list[str | None] = []
        for index, batch in enumerate(self.batches):
            self.first = batch if self.first is None else self.first
            own = sample_fingerprints(batch, unknown)
            samples += own
            self.prints.append(join_fingerprints(own))
            self.sizes.append(len(own))
            groups += groups_of(batch, index)
        if not samples:
            raise OptionError("ablate needs data to evaluate the rows on, got none")
        self.data = join_fingerprints(samples)
        if any(group is not None for group in groups):
            self.groups = [NO_GROUP if group is None else group for group in groups]
        self.depends.block("all", "nothing is", "the data", unknown)

    def cell(
        self,
        what: str,
        kind: Any,
        facts: Mapping[str, Any],
        work: Callable[[], Any],
        *blocks: str,
        fits: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """The value of a cell: kept from an earlier run, or worked out now (on every process) and kept at once.

        Args:
            what: kind of cell.
            kind: type of its value, as pydantic reads it; what was kept and is of another one is worked out again.
            facts: what it depends on, beside what all cells do.
            blocks: which of :attr:`Dependencies.blocked` it hangs on, beside ``"all"``.
            fits: whether a value that was kept can be right.
        """
        about = self.about(what, facts)
        value = self.team.share(self.kept(about, kind, *blocks) if self.team.first else None)
        if value is None or not fits(value):
            value = work()
            self.keep(about, value, *blocks)
        return value

    def about(self, what: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """All that a cell depends on."""
        return {"what": what, **self.depends.common, **facts}

    def kept(self, about: Mapping[str, Any], kind: Any, *blocks: str) -> Any:
        """The value of a cell in the store, None where there is none."""
        key = key_of(dict(about)) if self.depends.keeps(*self._codes(about), *blocks) else None
        return self.store.get(key, kind)

    def keep(self, about: Mapping[str, Any], value: Any, *blocks: str) -> None:
        """Put a value into the store, from the first process."""
        if self.team.first and self.depends.keeps(*self._codes(about), *blocks):
            self.store.put(key_of(dict(about)), value, dict(about))

    def _codes(self, about: Mapping[str, Any]) -> list[str]:
        return [str(about[name]) for name in ("reducer code", "baseline code") if name in about]

    @property
    def of_first(self) -> dict[str, str]:
        """What cells depend on that look at the first batch alone."""
        return {"data": self.prints[0]}

    def inputs(self, samples: int, size: tuple[int, int] | None = None) -> Inputs:
        """Inputs of the first batch, for so many samples and pictures of that size, on the model's device."""
        assert self.first is not None
        batch = on_device(self.first, self.device)
        whole = cut(batch.inputs, len(batch), samples)
        return whole if size is None else resize_inputs(whole, *size)

    def attach(self, model: nn.Module, arguments: Mapping[str, Any]) -> Attachment:
        """``tokenreduce.attach`` with arguments as rows have them."""
        return attach(model, **make_objects(arguments, self.depends.classes))

    def put(self, row: Row, size: tuple[int, int] | None = None, **changes: Any) -> Attachment:
        """The row's reducer, with its weights, on the row's model; ``size`` for pictures of another size."""
        with self.names_of(row):
            handle = self.attach(self.model_for(size or row.input_size, row.weights), attach_arguments(row, **changes))
            return load_reducer_weights(handle, row.weights) if row.weights else handle

    def facts(self, row: Row, **changes: Any) -> dict[str, Any]:
        """What a cell depends on as far as the row goes."""
        arguments = attach_arguments(row, **changes)
        with self.names_of(row):
            code = self.depends.of_reducers(arguments, row.name)
        facts = {"attach": arguments, "reducer code": code, "size": row.input_size}
        return {**facts, "weights": weights_digest(row.weights)} if row.weights else facts

    def against(self, baseline: Row) -> dict[str, Any]:
        """What a cell depends on that compares with the baseline."""
        facts = self.facts(baseline)
        return {"against": facts["attach"], "baseline code": facts["reducer code"]}

    def names_of(self, row: Row) -> contextlib.AbstractContextManager[None]:
        """A context for the row's names: they come out of a file where it has fine-tuned weights."""
        return names_from_file(row.weights, self.trust) if row.weights else contextlib.nullcontext()

    def model_for(self, size: tuple[int, int] | None, weights: str = "") -> nn.Module:
        """The model, or one with its weights for pictures of another size, or with the weights of a folder."""
        if size is None and not weights:
            return self.model
        if (weights, size) not in self._models:
            if size is None:
                self._models[weights, size] = tuned_model(self.model, weights)
            else:
                self._models[weights, size] = resize_model(self.model_for(None, weights), *size)
        return self._models[weights, size]

    def each(self, size: tuple[int, int] | None) -> Iterator[tuple[int, Batch]]:
        """This process's batches with their numbers, on the model's device.

        Raises:
            OptionError: a batch differs from what it was when the data were gone through first.
        """
        for index, batch in enumerate(self.batches):
            if not self.team.mine(index):
                continue
            if index >= len(self.prints) or join_fingerprints(sample_fingerprints(batch)) != self.prints[index]:
                raise OptionError(
                    f"batch {index} is not what it was in the first pass over the data, so rows would not be judged on "
                    "the same samples; turn shuffling and random augmentation off"
                )
            moved = on_device(batch, self.device)
            inputs = moved.inputs if size is None else resize_inputs(moved.inputs, *size)
            yield index, Batch(inputs, moved.targets, moved.groups)


def groups_of(batch: Batch, index: int) -> list[str | None]:
    """The group of each sample of a batch, None for those without one.

    Raises:
        OptionError: not one for each sample.
    """
    if batch.groups is None:
        return [None] * len(batch)
    groups = list(batch.groups)
    if len(groups) != len(batch):
        raise OptionError(
            f"batch {index} has {len(batch)} samples and {len(groups)} groups; give a group for each, or None"
        )
    return [None if group is None else str(group) for group in groups]


@contextlib.contextmanager
def attach_row(bench: Context, row: Row, **changes: Any) -> Iterator[Attachment]:
    """The row's reducer on the model that the row asks for, evaluation mode, gone afterwards."""
    with bench.put(row, **changes) as handle:
        yield handle


def attach_arguments(row: Row, **changes: Any) -> dict[str, Any]:
    """What the row gives to ``attach``, beside the model."""
    return {"reducer": row.reducer, **row.options, **changes}
