"""Which reducer runs on which backbone, found by trying each pair on the adapters' own examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .._torch import call
from ..attachments.lifecycle import attach
from ..backbones.adapter import Adapter, Example
from ..backbones.stack import Stack
from ..errors import UnsupportedModelError, guard, reason_of
from ..registry.registry import Registry, default_registry


@dataclass(frozen=True)
class Cell:
    """One reducer, with its default options, on one stack of one example.

    Attributes:
        adapter, example, stack, reducer: names.
        tokens: tokens of the stack before and after, None where refused.
        reason: why it is refused, "" where it runs.
        notes: what the reducer says of this backbone.
        signals: what it reads there.
    """

    adapter: str
    example: str
    stack: str
    reducer: str
    tokens: tuple[int, int] | None
    reason: str
    notes: tuple[str, ...]
    signals: tuple[str, ...]


def coverage(registry: Registry | None = None, adapter: str | None = None) -> Iterator[Cell]:
    """Try every reducer of the registry on every stack of every adapter's examples.

    Args:
        registry: the installed one if None.
        adapter: only this one's examples.

    Yields:
        One cell per pair, adapters whose library is not installed left out.
    """
    registry = default_registry() if registry is None else registry
    for name in registry.adapters if adapter is None else [adapter]:
        if not registry.entry("adapter", name).usable:
            continue
        reasons: list[str] = []
        with guard(reasons.append):
            made: Adapter = registry.load("adapter", name)()
            for label, maker in made.examples().items():
                example = maker()
                stacks = {**made.stacks(example.model), **dict.fromkeys(made.refusals(example.model))}
                for stack_name, stack in stacks.items():
                    for reducer in registry.reducers:
                        yield _cell(name, label, example, stack_name, stack, reducer)
        for reason in reasons:
            for reducer in registry.reducers:
                yield Cell(name, "-", "-", reducer, None, f"the adapter fails ({reason})", (), ())


def _cell(adapter: str, label: str, example: Example, name: str, stack: Stack | None, reducer: str) -> Cell:
    model = example.model
    try:
        with attach(model, {name: reducer}, adapter=adapter) as handle, torch.no_grad():
            call(model, example.inputs)
            first = last = 0
            (reduced,) = handle.stacks.values()
            if reduced.last is not None:
                first, last = sum(reduced.last.initial.values()), round(sum(reduced.last.tokens.values()))
            signals = tuple(sorted(reduced.reducer.needs))
            return Cell(adapter, label, name, reducer, (first, last), "", tuple(handle.notes), signals)
    except UnsupportedModelError as error:
        reason = str(error).partition(" cannot be reduced: ")[2] or str(error)
        return Cell(adapter, label, name, reducer, None, _plain(reason, model), (), ())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a reducer may raise anything
        return Cell(adapter, label, name, reducer, None, _plain(reason_of(error), model), (), ())


def _plain(reason: str, model: object) -> str:
    """A reason without what is particular to one model: its class, its signals, and the reducers that do run."""
    reason = reason.partition(" Reducers that run here")[0].partition("; it has: ")[0]
    reason = re.sub(r"; it provides: [^;]*", "", reason)
    return reason.replace(type(model).__name__, "the model").strip().rstrip(".")
