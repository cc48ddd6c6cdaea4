"""What a plugin says of itself: data only, so that listing plugins imports no torch.

A spec names its implementation as ``"module:attribute"``; it is imported when the user asks for it.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..errors import PluginError, reason_of
from .entry_points import output_apart

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_target(target: str) -> Any:
    """What ``"module:attribute"`` stands for; whatever importing the module raises, or AttributeError."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Spec:
    """Common part of every spec.

    Args:
        name: what the user types, for example ``"tome"``.
        target: ``"module:attribute"`` of the implementation.
        description: one line.
    """

    name: str
    target: str
    description: str

    def __post_init__(self) -> None:
        check_fields(self)

    def load(self) -> Any:
        """Import the implementation.

        Raises:
            PluginError: the module cannot be imported or has no such attribute.
        """
        try:
            with output_apart():
                return load_target(self.target)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's code may raise anything when it is imported
            raise PluginError(
                f"{self.name}: cannot load {self.target!r} ({reason_of(error)}). "
                "Reinstall the package that provides it, or see 'tokenreduce list'."
            ) from error


def check_fields(spec: Spec) -> None:
    """Have every field of a spec be what it says: text in one line, names, yes or no.

    Raises:
        PluginError: one is something else.
    """
    if not isinstance(spec.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", spec.name):
        raise PluginError(f"a spec's name is lower-case letters, digits, '-', '_' and '.', got {spec.name!r}")
    if not isinstance(spec.target, str) or not _TARGET.fullmatch(spec.target):
        raise PluginError(f"{spec.name}: target must be 'module:attribute', got {spec.target!r}")
    for entry in fields(spec):
        value, default = getattr(spec, entry.name), entry.default
        wanted: type | tuple[type, ...] = bool if isinstance(default, bool) else str
        if entry.name == "layers":
            if value is not None and not (isinstance(value, (tuple, list)) and all(type(one) is int for one in value)):
                raise PluginError(f"{spec.name}: layers must be a tuple of integers or None, got {value!r}")
            continue
        if entry.name in ("needs", "stacks", "requires", "variants", "rows"):
            wanted = (tuple, list) if isinstance(default, tuple) or value is not None else type(None)
            if value is not None and not all(isinstance(one, str) for one in value):
                wanted = ()
        if not isinstance(value, wanted):
            kind = "true or false" if wanted is bool else "text" if wanted is str else "a tuple of texts"
            raise PluginError(f"{spec.name}: {entry.name} must be {kind}, got {value!r}")
        if isinstance(value, str):
            object.__setattr__(spec, entry.name, one_line(value))  # frozen for everybody else


def one_line(text: str) -> str:
    """Text in one line, without what no terminal should be given."""
    return " ".join(_CONTROL.sub("\ufffd", str.__str__(text)).split())


@dataclass(frozen=True)
class ReducerSpec(Spec):
    """A reducer: ``target`` is a subclass of :class:`tokenreduce.Reducer`.

    Args:
        source: the paper or page that defines the method.
        needs: the signals that it asks for under its default options.
        role: ``"baseline"`` (changes nothing; others are compared with it), ``"control"`` or ``"method"``.
        learns: whether it means nothing before it was trained; ablations leave it out then.
        stacks: of a control: it belongs into every ablation of a model that has one of these stacks, such as
            ``("handover",)`` for every large vision-language model. Empty: of every model.
        layers: the layers of 12 in which it acts under its default options. With them ``tokenreduce info`` reads all
            else off the source, without importing the class and torch; None for it to ask the class.
    """

    source: str = ""
    needs: tuple[str, ...] = ()
    role: Literal["baseline", "control", "method"] = "method"
    learns: bool = False
    stacks: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class AdapterSpec(Spec):
    """An adapter: ``target`` is a subclass of :class:`tokenreduce.backbones.Adapter`.

    Args:
        library: top-level module that a model of this family comes from; the adapter is only imported
            once that module is. Empty: always ask the adapter.
        models: the models it takes, in words.
        requires: further top-level modules that it needs.
        install: what to give pip where one of these is not installed; the module's name if empty.
    """

    library: str = ""
    models: str = ""
    requires: tuple[str, ...] = ()
    install: str = ""


@dataclass(frozen=True)
class TaskSpec(Spec):
    """A task for ablations: ``target`` returns a :class:`tokenreduce.Task` when called without arguments.

    Args:
        variants: names in the task's settings that are rows of their own, so that a name that is neither one of them
            nor a reducer's is refused before the model is read; None where the settings themselves must say.
        rows: reducers and variants of an ablation in which none are named; None for every reducer that needs no
            training and every variant, which ``--reducers all`` asks for.
    """

    variants: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PresetSpec(Spec):
    """A named ablation: ``target``, called without arguments, gives the mapping of a request (see ``--grid``).

    Args:
        source: the paper whose rows it repeats.
    """

    source: str = ""


@dataclass(frozen=True)
class ReproductionSpec(Spec):
    """Published numbers: ``target``, called without arguments, gives a mapping (``tokenreduce.lab.reproduction``).

    Args:
        source: the paper and the table.
    """

    source: str = ""


@dataclass(frozen=True)
class LoaderSpec(Spec):
    """A loader of models by name: ``target`` is a subclass of :class:`tokenreduce.tasks.Loader`.

    Args:
        library: top-level module that it needs; empty for none.
        models: what may be named, in words.
        requires: further top-level modules that it needs.
        install: what to give pip where one of these is not installed; the module's name if empty.
    """

    library: str = ""
    models: str = ""
    requires: tuple[str, ...] = ()
    install: str = ""
