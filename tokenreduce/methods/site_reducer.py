"""What acts at the sites of a stack: a reducer itself, or what its ``bind`` has made for a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.site import Site
from ..core.streams import Streams
from ..errors import UnfitReducerError


class SiteReducer:
    """What the engine reads of whatever reduces, and the call that it makes.

    All of these may be plain class attributes in a subclass: ``needs = {"keys"}``.
    """

    @property
    def reducer(self) -> Any:
        """The :class:`BaseReducer` whose options are in force."""
        raise UnfitReducerError(f"{type(self).__name__} does not say whose options are in force")

    def take_options(self, reducer: Any) -> None:
        """Go on with the options of another reducer of the same class, weights and all else kept."""
        raise UnfitReducerError(f"{type(self).__name__} cannot take other options")

    @property
    def needs(self) -> Collection[str]:
        """The signals it reads, of :data:`tokenreduce.methods.SIGNALS`."""
        return frozenset()

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams it reduces; it acts in the block of a layer that updates the first of them."""
        return ("image",)

    @property
    def position(self) -> str:
        """Where it acts: ``"after_attention"``, before the MLP, or ``"before_block"``, where there are no signals."""
        return "after_attention"

    @property
    def proportional_attention(self) -> bool:
        """Whether attention counts a merged token as often as its size (adds log size)."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether what goes depends on a draw; an ablation then runs several seeds.

        Of the option ``seed`` if there is one, and of torch's generator.
        """
        return False

    @property
    def ragged(self) -> bool:
        """Whether samples may keep different numbers of tokens (:attr:`Reduction.valid`)."""
        return False

    @property
    def masks_heads(self) -> bool:
        """Whether it masks attention heads (:meth:`Streams.mask_heads`), which attach then checks for every block."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user, shown by the handle."""
        return ()

    def idle(self, site: Site) -> bool:
        """Whether nothing is done at a site whatever comes there, known before: it is then left out of the pass."""
        return False

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        """Reductions, or in training gates, by stream; streams left out stay whole."""
        raise UnfitReducerError(f"{type(self).__name__} does not define reduce_streams(streams, site)")


class BoundReducer(SiteReducer):
    """What a reducer's ``bind`` makes for one model, where that is more than the reducer itself.

    All that the engine reads is what the reducer says, unless a subclass says otherwise. With weights to learn it is
    an ``nn.Module`` too, which becomes the submodule ``tokenreduce`` of the stack it acts in, so that optimizers,
    ``state_dict``, ``.to()`` and wrappers for several processes see it:

        class Predictors(BoundReducer, nn.Module):
            def __init__(self, reducer, backbone):
                super().__init__(reducer)
                self.heads = nn.ModuleList(nn.Linear(backbone.width, 1) for _ in range(backbone.sites))

    ``handle.scale`` gives it other options while it stays the same object: read them from ``self.reducer`` in each
    call.

    Args:
        reducer: whose options are in force.
    """

    def __init__(self, reducer: Any) -> None:
        super().__init__()
        self._reducer = reducer

    @property
    def reducer(self) -> Any:
        return self._reducer

    def take_options(self, reducer: Any) -> None:
        self._reducer = reducer

    @property
    def needs(self) -> Collection[str]:
        needs: Collection[str] = self.reducer.needs
        return needs

    @property
    def streams(self) -> tuple[str, ...]:
        streams: tuple[str, ...] = self.reducer.streams
        return streams

    @property
    def position(self) -> str:
        return str(self.reducer.position)

    @property
    def proportional_attention(self) -> bool:
        return bool(self.reducer.proportional_attention)

    @property
    def stochastic(self) -> bool:
        return bool(self.reducer.stochastic)

    @property
    def ragged(self) -> bool:
        return bool(self.reducer.ragged)

    @property
    def masks_heads(self) -> bool:
        return bool(self.reducer.masks_heads)

    @property
    def notes(self) -> tuple[str, ...]:
        notes: tuple[str, ...] = self.reducer.notes
        return notes
