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
from .reducer import Reducer


@dataclass(frozen=True)
class Part:
    """A reducer, the name that stands for it, and the layers where it acts; None for its own choice."""

    reducer: Reducer
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

    def bound(self, backbone: Backbone) -> Part:
        """The part settled for a backbone; its layers are known then."""
        reducer = self.reducer if self.layers is None else self.reducer.within(self.layers)
        with default_registry().blame("reducer", self.name):
            reducer = reducer.bind(backbone)
            layers = self.layers if self.layers is not None else layer_tuple(reducer.layers(backbone.depth))
        return Part(reducer, self.name, layers)

    def changed(self, config: Mapping[str, Any]) -> Part:
        """The same reducer with other options and layers, as :meth:`config` has them."""
        own = {name: value for name, value in config.items() if name not in ("reducer", "layers")}
        layers = config.get("layers")
        return Part(self.reducer.changed(**own), self.name, None if layers is None else layer_tuple(layers))

    def scaled(self, factor: float) -> Part:
        """A part that removes so many times as much; of a bound one."""
        assert self.layers is not None
        return replace(self, reducer=self.reducer.changed(**self.reducer.scaled(factor, len(self.layers))))

    def at(self, layer: int) -> Part | None:
        """What of it acts in a layer, if anything does."""
        if self.layers is not None and layer not in self.layers:
            return None
        return replace(self, reducer=self.reducer.at(layer))

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


def make(given: Any) -> Reducer:
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
        OptionError: none at all, or not whole numbers of 0 and more.
    """
    valid = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
    if not valid or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in layers):
        raise OptionError(f"layers of a part is a list of block numbers of 0 and more, got {layers!r}")
    return tuple(sorted(set(layers)))
