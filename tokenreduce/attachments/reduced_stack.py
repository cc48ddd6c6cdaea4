"""One reduced stack of a model, as its handle shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ..backbones.stack import Stack
from ..core.site import Site
from ..engine.binding import BaseBinding
from ..engine.record import Record
from ..methods.site_reducer import SiteReducer


class ReducedStack:
    """One reduced stack: ``handle.stacks["vision"]``."""

    def __init__(self, binding: BaseBinding) -> None:
        self._binding = binding

    @property
    def stack(self) -> Stack:
        """The blocks, as their adapter describes them."""
        return self._binding.stack

    @property
    def name(self) -> str:
        """``"vision"``."""
        return self._binding.stack.name

    @property
    def reducer(self) -> SiteReducer:
        """What acts there now: the reducer, or what it was bound to, weights included; ``.reducer`` has its options."""
        return self._binding.acting

    @property
    def sites(self) -> list[Site]:
        """Where it acts."""
        return list(self._binding.sites.values())

    @property
    def output(self) -> str:
        """What the rest of the model is given: ``"reduced"``, ``"repeated"``, ``"full"`` or the name of a stream."""
        return self._binding.output_name

    @property
    def factor(self) -> float:
        """How many times the configured removal is in force (:meth:`Attachment.scale`)."""
        return self._binding.factor

    @property
    def traced(self) -> bool:
        """Whether passes keep a trace."""
        return self._binding.trace

    @property
    def last(self) -> Record | None:
        """The record of the last pass, None before the first; a language model's has more to say (``handle.last``)."""
        record: Record | None = self._binding.last
        return record

    @contextmanager
    def around(self, make: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """A context in which every reduction runs inside the context that ``make`` gives: for measuring."""
        before = self._binding.around
        self._binding.around = make
        try:
            yield
        finally:
            self._binding.around = before
