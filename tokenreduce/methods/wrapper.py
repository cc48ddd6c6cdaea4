"""Reducers around others: what the engine reads of them follows from those inside."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from ..errors import UnfitReducerError
from .reducer import BaseReducer
from .site_reducer import BoundReducer, SiteReducer


class _Around(SiteReducer):
    """All that the engine reads, gathered from the reducers inside."""

    @property
    def inside(self) -> Sequence[SiteReducer]:
        """The reducers inside."""
        raise UnfitReducerError(f"{type(self).__name__} does not say what is inside")

    @property
    def needs(self) -> Collection[str]:
        needs: set[str] = set()
        for other in self.inside:
            needs.update(other.needs)
        return needs

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for other in self.inside for name in other.streams))

    @property
    def position(self) -> str:
        return next((other.position for other in self.inside), "after_attention")

    @property
    def proportional_attention(self) -> bool:
        return any(other.proportional_attention for other in self.inside)

    @property
    def stochastic(self) -> bool:
        return any(other.stochastic for other in self.inside)

    @property
    def ragged(self) -> bool:
        return any(other.ragged for other in self.inside)

    @property
    def masks_heads(self) -> bool:
        return any(other.masks_heads for other in self.inside)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for other in self.inside for note in other.notes))


class WrapperReducer(_Around, BaseReducer):
    """A reducer that runs others; it says in ``inside`` which, and binds them in :meth:`BaseReducer.bind`:

    class Late(WrapperReducer):
        inner: Any = "tome"

        @cached_property
        def inside(self):
            return (make(self.inner),)

        def bind(self, backbone):
            return BoundWrapper(self, [one.bind(backbone) for one in self.inside])
    """

    def check_rules(self) -> None:
        super().check_rules()
        for other in self.inside:
            other.reducer.check_rules()


class BoundWrapper(_Around, BoundReducer):
    """What a :class:`WrapperReducer` binds to; by default it does what the first one inside does.

    Args:
        reducer: whose options are in force.
        inside: what it runs, bound.

    Raises:
        UnfitReducerError: one has weights to learn, which would be lost here, or they act in different positions.
    """

    def __init__(self, reducer: BaseReducer, inside: Sequence[SiteReducer]) -> None:
        super().__init__(reducer)
        self._inside = tuple(inside)
        for other in self._inside:
            if isinstance(other, nn.Module):
                raise UnfitReducerError(
                    f"{type(other.reducer).__name__} has weights to learn and cannot act inside "
                    f"{type(reducer).__name__}; attach it by itself, or to a stack of its own: {{stack: reducer, ...}}"
                )
        if len({other.position for other in self._inside}) > 1:
            told = ", ".join(f"{type(other.reducer).__name__} {other.position}" for other in self._inside)
            raise UnfitReducerError(f"reducers that act together act in one position of a block; got {told}")

    @property
    def inside(self) -> Sequence[SiteReducer]:
        return self._inside
