"""What a conformance class is about: a reducer with options, on streams made by hand or on a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach
from ..errors import UnfitReducerError
from ..methods.factory import make_reducer
from ..methods.reducer import BaseReducer
from ..methods.site_reducer import SiteReducer
from ..registry.registry import default_registry
from .models import KINDS, backbone, run
from .synthetic import WIDTH, synthetic_backbone


@dataclass
class Subject:
    """A reducer with options, and a tiny model that takes it."""

    model: nn.Module
    inputs: dict[str, Any]
    adapter: str
    reducer: str | type[BaseReducer]
    setting: Mapping[str, Any]

    def attach(self, setting: Mapping[str, Any] | None = None, **more: Any) -> Attachment:
        """Attach the reducer to the model, with other options of its own than the setting's if given."""
        own = dict(self.setting if setting is None else setting)
        if isinstance(self.reducer, str):
            return attach(self.model, self.reducer, adapter=self.adapter, **own, **more)
        return attach(self.model, self.reducer(**own), adapter=self.adapter, **more)

    def run(self, inputs: Mapping[str, Any] | None = None, seed: int = 0) -> list[Tensor]:
        """The tensors that the model gives."""
        return run(self.model, self.inputs if inputs is None else inputs, seed)


class ReducerCase:
    """The attributes that a subclass sets, and what follows from them.

    Attributes:
        reducer: the registered name, ``"module:attribute"``, or the class.
        settings: sets of options; every check runs with each of them.
        zero: options under which nothing is removed; None for what ``scaled(0, sites)`` gives.
        backbones: names of kinds (:data:`tokenreduce.testing.KINDS`) or of models (:func:`tokenreduce.testing.models`).
        compiled: those of them that are compiled, with the first setting: it takes seconds.
    """

    reducer: ClassVar[str | type[BaseReducer]]
    settings: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    zero: ClassVar[Mapping[str, Any] | None] = None
    backbones: ClassVar[Sequence[str]] = tuple(KINDS)
    compiled: ClassVar[Sequence[str]] = ("image, a class token is read", "text and image in one sequence")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "setting" in metafunc.fixturenames:
            metafunc.parametrize("setting", self.settings, ids=_words)
        if "compiled_backbone" in metafunc.fixturenames:
            chosen = [name for name in self.compiled if name in self.backbones]
            none = pytest.param("", marks=pytest.mark.skip("no backbone of this class is compiled"))
            metafunc.parametrize("compiled_backbone", chosen or [none], ids=str)
        if "backbone" in metafunc.fixturenames:
            metafunc.parametrize("backbone", self.backbones, ids=str)

    @pytest.fixture(autouse=True)
    def few_threads(self) -> Iterator[None]:
        """Tiny models are faster on one thread, and sums come out the same each time."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.manual_seed(0)
        yield
        torch.set_num_threads(before)

    @pytest.fixture
    def subject(self, setting: Mapping[str, Any], backbone: str) -> Subject:
        """The reducer on a backbone; the test is skipped where the reducer refuses the backbone."""
        made = self.on(setting, backbone)
        try:
            made.attach().detach()
        except UnfitReducerError as error:
            pytest.skip(f"refused: {error}")
        return made

    def on(self, setting: Mapping[str, Any], name: str) -> Subject:
        """The reducer on a backbone by name."""
        adapter, example = backbone(name)
        return Subject(example.model.eval(), dict(example.inputs), adapter, self.reducer, setting)

    def made(self, setting: Mapping[str, Any], *, training: bool = False) -> SiteReducer:
        """The reducer for synthetic streams: bound to a stack of twelve layers, with weights if it learns."""
        if not hasattr(type(self), "reducer"):
            pytest.fail(f'{type(self).__name__} needs reducer = "NAME", or the class of your reducer')
        if isinstance(self.reducer, str):
            reducer, _ = make_reducer(default_registry(), self.reducer, setting)
        else:
            reducer = self.reducer(**setting)
        backbone = synthetic_backbone(width=WIDTH)
        total = len(reducer.layers(backbone))
        reducer.check_sites(total)
        active = reducer.bind(replace(backbone, width=WIDTH, sites=total))
        if isinstance(active, nn.Module):
            active.train(training)
        return active

    def nothing(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Options like the setting's, but under which nothing is removed."""
        if self.zero is not None:
            return dict(self.zero)
        if self.baseline:
            return dict(setting)
        reducer = self.made(setting).reducer
        try:
            nothing: dict[str, Any] = reducer.scaled(0.0, len(reducer.layers(synthetic_backbone()))).options()
            return nothing
        except UnfitReducerError as error:
            pytest.fail(f"{error} Or set 'zero' in {type(self).__name__}: options under which nothing is removed.")

    @property
    def baseline(self) -> bool:
        """Whether the reducer is meant to change nothing."""
        entry = default_registry().reducers.get(self.reducer) if isinstance(self.reducer, str) else None
        return getattr(entry and entry.spec, "role", "") == "baseline"


def _words(setting: Mapping[str, Any]) -> str:
    """A setting as the name of a test."""
    return ",".join(f"{key}={value}" for key, value in setting.items()) or "defaults"
