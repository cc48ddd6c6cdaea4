"""``torch.export`` of an attached model, the batch left open. Axes: B batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import evaluating
from ..errors import OptionError, UnsupportedCallError, reason_of
from .agreement import compare_outputs

MOST = 2**16
"""The largest batch that an exported program is open to."""


class Served(nn.Module):
    """A model for a server: tensors in and out in fixed orders.

    Args:
        model: any module that is called with keywords.
        inputs: of one call, to see what it gives; what is no tensor among them stays as it is in every call.

    Attributes:
        inputs: names of the tensors that go in.
        names: of the outputs; those that are tensors, of a model output that has several.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.inputs = [name for name, value in inputs.items() if isinstance(value, Tensor)]
        self.fixed = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
        with evaluating(model):
            self.names = list(named_outputs(model(**inputs)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the order of :attr:`names`, from the inputs in that of :attr:`inputs`."""
        found = named_outputs(self.model(**dict(zip(self.inputs, inputs, strict=True)), **self.fixed))
        return tuple(found[name] for name in self.names)


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The tensors of a model's output by name; what is nested deeper is left out.

    Raises:
        UnsupportedCallError: there are none.
    """
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, (tuple, list)):
        output = {f"output_{index}": value for index, value in enumerate(output)}
    found = {str(name): value for name, value in output.items() if isinstance(value, Tensor)} if output else {}
    if not found:
        raise UnsupportedCallError(
            f"the model gives {type(output).__name__} without a tensor at its top, so there is nothing to export"
        )
    return found


def tensors_in(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among the inputs, each with the batch as its first axis.

    Raises:
        OptionError: none, batches of different sizes, or a batch of one, which would be taken for fixed.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    sizes = {len(value) if value.ndim else 0 for value in tensors.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        told = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items()) or "no tensors"
        raise OptionError(
            f"export needs inputs by name, tensors with the same batch of two or more in front, got {told}"
        )
    return tensors


def without_masks(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Inputs without the masks over pictures that are all ones, where the model gives the same without; their names.

    A model may look at such a mask on the host, which no program can hold.
    """
    kept, gone = dict(inputs), list[str]()
    for name, value in inputs.items():
        mask = isinstance(value, Tensor) and value.ndim > 2 and not value.is_floating_point()
        if not mask or not bool((value == 1).all()):
            continue
        rest = {other: given for other, given in kept.items() if other != name}
        try:
            with evaluating(model), torch.random.fork_rng(devices=[]):
                same = compare_outputs(named_outputs(model(**rest)), named_outputs(model(**kept))).ok
        except Exception:  # the model needs it
            continue
        if same:
            kept, gone = rest, [*gone, name]
    return kept, gone


def export_program(served: Served, inputs: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """The program of a model, open to every batch from 1 on.

    Args:
        served: around the attached model.
        inputs: of one batch of two or more samples.

    Raises:
        UnsupportedCallError: torch.export cannot follow the model with this reducer; the message has its reason.
    """
    tensors = tensors_in(inputs)
    batch = torch.export.Dim("batch", min=1, max=MOST)
    shapes = (tuple({0: batch} for _ in tensors),)
    try:
        with evaluating(served):
            return torch.export.export(served, tuple(tensors.values()), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises what it likes
        reason = reason_of(error).strip().partition("\n")[0]
        raise UnsupportedCallError(
            f"torch.export cannot follow {type(served.model).__name__} with what is attached to it: {reason}. See "
            "docs/deploy.md for what it follows; a service in Python needs no export"
        ) from error
