"""A reducer as a part of another: from a name, an object or a mapping, and back to a mapping that is JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.site import Site
from ..errors import OptionError
from ..registry.registry import default_registry
from .backbone import Backbone
from .factory import make_reducer
from .reducer import BaseReducer


@dataclass(frozen=True)
class Part:
    """A reducer, the name that stands for it, and the layers where it acts; None for its own choice."""

    reducer: BaseReducer
    name: str
    layers: tuple[int, ...] | None = None

    @classmethod
    def of(cls, given: Any) -> Part:
        """A part from a name, a :class:`Reducer`, or ``{"reducer": one of these, "layers": [...], **options}``.

        Raises:
            UnknownNameError, OptionError, UnknownOptionError, PluginError: as :func:`tokenreduce.attach` has them.
        """
        if isinstance(given, Part):
            return given
        own = dict(given) if isinstance(given, Mapping) else {"reducer": given}
        if "reducer" not in own:
            raise OptionError(f"a part is a name, a Reducer or {{'reducer': name, **options}}, got {given!r}")
        layers, inner = own.pop("layers", None), own.pop("reducer")
        return cls(*make_reducer(default_registry(), inner, own), None if layers is None else layer_tuple(layers))

    def config(self) -> dict[str, Any]:
        """What :meth:`of` takes back, JSON-able."""
        layers = {} if self.layers is None else {"layers": list(self.layers)}
        return {"reducer": self.name, **layers, **self.reducer.options()}

    def within(self, layers: Sequence[int]) -> Part:
        """The part in these layers, if it names none of its own.

        Raises:
            OptionError: it names others.
        """
        if self.layers is None:
            return replace(self, layers=tuple(layers))
        outside = [layer for layer in self.layers if layer not in layers]
        if outside:
            raise OptionError(
                f"{self.name} acts in layers {list(self.layers)}, of which {outside} are not among the layers="
                f"{list(layers)} given for all parts; leave layers= out, or name them there"
            )
        return self

    def placed(self, backbone: Backbone) -> tuple[int, ...]:
        """The layers where it acts on a backbone."""
        if self.layers is not None:
            return self.layers
        with default_registry().blame("reducer", self.name):
            return layer_tuple(self.reducer.layers(backbone))

    def site(self, site: Site) -> Site | None:
        """Its own count of a site: the index among the layers where it acts; None where it does not."""
        if self.layers is None:
            return site
        if site.layer not in self.layers:
            return None
        return replace(site, index=self.layers.index(site.layer), total=len(self.layers))

    def __repr__(self) -> str:
        where = "" if self.layers is None else f" in layers {', '.join(map(str, self.layers))}"
        return f"{self.reducer!r}{where}"


def make(given: Any) -> BaseReducer:
    """A reducer from a name, a :class:`Reducer` or ``{"reducer": name, **options}``: for one that wraps another.

    Raises:
        UnknownNameError, OptionError, UnknownOptionError, PluginError: as :func:`tokenreduce.attach` has them.
    """
    part = Part.of(given)
    if part.layers is not None:
        raise OptionError(f"layers={list(part.layers)} has no meaning here; give layers to attach(...) or chain(...)")
    return part.reducer


def layer_tuple(layers: Any) -> tuple[int, ...]:
    """Layers in order, each once.

    Raises:
        OptionError: none at all, or not non-negative integers.
    """
    valid = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
    if not valid or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in layers):
        raise OptionError(f"layers of a part is a list of non-negative block numbers, got {layers!r}")
    return tuple(sorted(set(layers)))
