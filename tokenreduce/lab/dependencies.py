"""What the cells of an ablation depend on beside options and data: the code of model, metric and reducers.

Where that cannot be told, the cells that depend on it are not kept, and :attr:`Dependencies.notes` say so.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .._torch import call
from .._version import __version__
from ..backbones.dispatch import device_of
from ..errors import TokenReduceError, guard
from ..methods.factory import plan_reducers
from ..registry.registry import default_registry
from ..registry.targets import imported_class
from ..tasks.fingerprint import model_fingerprint
from ..tasks.identity import Identity, digest
from ..tasks.packages import OWN, source_fingerprints
from .reducer_objects import Classes, make_objects


class Dependencies:
    """Facts for the keys of cells.

    Attributes:
        common: of every cell: the model with its code, its adapter, this package, device and versions.
        metric: hash of the metric, of what it closes over and is bound to, and of how the model is asked.
        notes: what is not kept, and why.
        blocked: ``"all"`` and ``"scores"`` where such cells are not kept.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: str,
        metric: Callable[..., Any],
        classes: Classes,
        ask: Callable[..., Any] = call,
    ) -> None:
        self.classes = classes
        self.notes: list[str] = []
        self.blocked: set[str] = set()
        self._rows: dict[str, str] = {}
        of_model = Identity()
        code = of_model.module(model, tensors=False)
        of_adapter = Identity()
        adapter_code = of_adapter.of(default_registry().load("adapter", adapter))
        sources = source_fingerprints({OWN, *of_model.packages, *of_adapter.packages})
        self.common = {
            "tokenreduce": __version__,
            "code": digest(code, adapter_code, str(sources)),
            "model": model_fingerprint(model),
            "device": (device := device_of(model).type),
            "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "",
            "precision": torch.get_float32_matmul_precision(),
            "torch": torch.__version__,
            "python": ".".join(map(str, sys.version_info[:2])),
        }
        self.block("all", "nothing is", "the model", of_model.unknown)
        of_metric = Identity()
        own = () if ask is call else (of_metric.of(ask),)
        self.metric = digest(of_metric.of(metric), *own, str(source_fingerprints(of_metric.packages)))
        self.block("scores", "scores are not", "the metric", [*of_metric.unknown, *of_metric.reads])

    def block(self, what: str, cells: str, whose: str, reasons: list[str]) -> None:
        """Keep no cells of a kind, if there are reasons; ``cells`` begins the note: ``"scores are not"``."""
        if reasons and what not in self.blocked:
            self.blocked.add(what)
            self.notes.append(
                f"{cells} kept for another run, as nobody can tell all that {whose} depends on: {reasons[0]}"
            )

    def of_reducers(self, arguments: Mapping[str, Any], label: str) -> str:
        """A hash of the code of every reducer that is named in the arguments of ``attach``, however deep inside."""
        names = sorted(set(texts(arguments)))
        key = str(names)
        if key not in self._rows:
            self._import(arguments)
            walk = Identity()
            code = digest(*(walk.of(kind) for name in names for kind in self._named(name)))
            self._rows[key] = digest(code, str(source_fingerprints(walk.packages)))
            reasons = [*walk.unknown, *walk.reads]
            self.block(self._rows[key], f"cells of {label!r} are not", "its reducer", reasons)
        return self._rows[key]

    def keeps(self, *facts: str) -> bool:
        """Whether cells that depend on these are kept."""
        return not self.blocked & {"all", *facts}

    def _import(self, arguments: Mapping[str, Any]) -> None:
        """Make the reducers once, so that whatever they name is imported; why that fails the row will say itself."""
        given = dict(make_objects(arguments, self.classes))
        with guard(lambda reason: None):
            plan_reducers(default_registry(), given.pop("reducer"), given.pop("layers", None), given)

    def _named(self, name: str) -> Iterator[type]:
        """The class that a text names, if it names one."""
        found = self.classes.get(name) or imported_class(name)
        if found is None and name in default_registry().reducers:
            with contextlib.suppress(TokenReduceError):
                found = default_registry().load("reducer", name)
        if found is not None:
            yield found


def texts(value: Any) -> Iterator[str]:
    """Every text in a nest of mappings and lists, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from texts(one)
