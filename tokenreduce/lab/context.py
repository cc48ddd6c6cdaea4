"""What every cell of an ablation needs: the model, the data, the clock's candidates, and where cells are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import Inputs
from ..attachments.attach import attach
from ..attachments.handle import Attachment
from ..attachments.resize import resize_model
from ..errors import OptionError
from ..tasks.data import Batches, cut, on_device
from ..tasks.fingerprint import join_fingerprints, sample_fingerprints
from ..tasks.inputs import resize_inputs
from ..tasks.task import Batch
from ..train.weights import weights_digest
from .distributed import ProcessGroup
from .finetuned import load_reducer_weights, tuned_model
from .reducer_objects import Classes, make_objects
from .result import Row
from .store import Store, key_of

Tick = Callable[[str], None]


@dataclass
class Context:
    """One model on one data set.

    Attributes:
        common: facts that every cell depends on: code, model, versions.
        data: fingerprint of all samples, whatever batches they stand in.
        prints, sizes: fingerprint and number of samples of each batch; ``groups`` of each sample.
        first: the first batch, for timing.
        cost_batch: samples of the batch that multiply-adds and memory are counted on.
        classes: of reducers that were given as objects, by the name that rows have for them.
        drawing: by row, the stacks whose reducer draws and takes a seed.
        tick: called with what has just been done.
    """

    model: nn.Module
    batches: Batches
    metric: Callable[[Any, Any], Tensor]
    store: Store
    team: ProcessGroup
    common: dict[str, Any]
    tick: Tick
    data: str = ""
    prints: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    first: Batch | None = None
    cost_batch: int = 1
    drawing: dict[str, set[str]] = field(default_factory=dict)
    classes: Classes = field(default_factory=dict)
    _models: dict[tuple[str, tuple[int, int] | None], nn.Module] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def survey(self) -> None:
        """Go through the data once: sizes, fingerprints, the first batch.

        Raises:
            OptionError: there are no samples.
        """
        samples: list[str] = []
        for batch in self.batches:
            self.first = self.first or batch
            samples += sample_fingerprints(batch)
            self.prints.append(join_fingerprints(samples[-len(batch) :]))
            self.sizes.append(len(batch))
            self.groups += list(batch.groups or ())
        if not sum(self.sizes):
            raise OptionError("ablate needs data to judge the rows on, got none")
        self.data = join_fingerprints(samples)

    def cell(self, what: str, facts: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """The value of a cell: kept from an earlier run, or worked out now (on every process) and kept at once."""
        about = {"what": what, **self.common, **facts}
        key = key_of(about)
        value = self.team.share(self.store.get(key) if self.team.first else None)
        if value is None:
            value = work()
            self.keep(about, value)
        return value

    def keep(self, about: Mapping[str, Any], value: Any) -> None:
        """Put a value into the store, from the first process."""
        if self.team.first:
            self.store.put(key_of(dict(about)), value, dict(about))

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
        return attach(model, **make_objects(arguments, self.classes))

    def put(self, row: Row, size: tuple[int, int] | None = None, **changes: Any) -> Attachment:
        """The row's reducer, with its weights, on the row's model; ``size`` for pictures of another size."""
        handle = self.attach(self.model_for(size or row.input_size, row.weights), attach_arguments(row, **changes))
        return load_reducer_weights(handle, row.weights) if row.weights else handle

    def facts(self, row: Row, **changes: Any) -> dict[str, Any]:
        """What a cell depends on as far as the row goes."""
        facts = {"attach": attach_arguments(row, **changes), "size": row.input_size}
        return {**facts, "weights": weights_digest(row.weights)} if row.weights else facts

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


@contextlib.contextmanager
def attach_row(bench: Context, row: Row, **changes: Any) -> Iterator[Attachment]:
    """The row's reducer on the model that the row asks for, evaluation mode, gone afterwards."""
    with bench.put(row, **changes) as handle:
        yield handle


def attach_arguments(row: Row, **changes: Any) -> dict[str, Any]:
    """What the row gives to ``attach``, beside the model."""
    return {"reducer": row.reducer, **row.options, **changes}
