"""Data in the forms that people have it in, as batches. Axes: B batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .._torch import Inputs
from ..errors import OptionError
from .task import Batch

TARGETS = ("labels", "label", "targets", "target")


class Batches:
    """Anything that gives batches when gone through, as :class:`Batch` after :class:`Batch`, again and again.

    Batches of no samples are left out.

    Args:
        source: a list or ``DataLoader`` of :class:`Batch`, of ``(inputs, targets)`` pairs, or of mappings in which
            one of ``labels``, ``label``, ``targets``, ``target`` is what the metric is given.

    Raises:
        OptionError: it is an iterator, which could be gone through only once.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        if isinstance(source, Iterator) or not isinstance(source, Iterable):
            raise OptionError(
                f"data is gone through once for every row, so a list or a DataLoader is expected, got "
                f"{type(source).__name__}; pass list(data), or the DataLoader itself"
            )
        self.source = source

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in map(as_batch, self.source) if len(batch))


def as_batch(item: Any) -> Batch:
    """One item of a data set as a :class:`Batch`.

    Raises:
        OptionError: it has none of the known forms.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Mapping):
        found = [name for name in TARGETS if name in item]
        if found:
            return Batch({key: value for key, value in item.items() if key != found[0]}, item[found[0]])
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        inputs, targets = item
        return Batch(inputs if isinstance(inputs, (Mapping, tuple)) else (inputs,), targets)
    form = f"a mapping of {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
    raise OptionError(
        f"a batch is a tokenreduce.tasks.Batch, a pair (inputs, targets), or a mapping with one of "
        f"{', '.join(TARGETS)}; got {form}"
    )


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device; targets go along."""
    move: Callable[[Any], Any] = lambda value: value.to(device) if isinstance(value, Tensor) else value  # noqa: E731
    return Batch(tree_map(move, batch.inputs), tree_map(move, batch.targets), batch.groups)


def cut(inputs: Inputs, size: int, wanted: int) -> Inputs:
    """Inputs of a batch of ``size`` samples for the first ``wanted`` of them, repeated where there are too few."""
    return take(inputs, size, [i % size for i in range(wanted)])


def take(inputs: Inputs, size: int, index: Sequence[int]) -> Inputs:
    """Inputs of a batch of ``size`` samples for some of them, in the order of ``index``.

    Of every tensor or list whose first axis is ``size`` long; anything else goes along as it is.
    """

    def one(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == size:
            return value[torch.tensor(index, device=value.device)]
        return [value[i] for i in index] if isinstance(value, list) and len(value) == size else value

    if isinstance(inputs, Mapping):
        return {name: one(value) for name, value in inputs.items()}
    return tuple(one(value) for value in inputs)
