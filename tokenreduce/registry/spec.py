"""What a plugin says of itself: data only, so that listing plugins imports no torch.

A spec names its implementation as ``"module:attribute"``; it is imported when the user asks for it.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import PluginError

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
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise PluginError(f"a spec's name is lower-case letters, digits, '-', '_' and '.', got {self.name!r}")
        if not isinstance(self.target, str) or not _TARGET.fullmatch(self.target):
            raise PluginError(f"{self.name}: target must be 'module:attribute', got {self.target!r}")

    def load(self) -> Any:
        """Import the implementation.

        Raises:
            PluginError: the module cannot be imported or has no such attribute.
        """
        try:
            return load_target(self.target)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.name}: cannot load {self.target!r} ({type(error).__name__}: {error}). "
                "Reinstall the package that provides it, or see 'tokenreduce list'."
            ) from error


@dataclass(frozen=True)
class ReducerSpec(Spec):
    """A reducer: ``target`` is a subclass of :class:`tokenreduce.Reducer`.

    Args:
        source: the paper or page that defines the method.
        needs: the signals that it asks for under its default options.
        role: ``"baseline"`` (changes nothing; others are compared with it), ``"control"`` or ``"method"``.
        learns: whether it means nothing before it was trained; ablations leave it out then.
    """

    source: str = ""
    needs: tuple[str, ...] = ()
    role: Literal["baseline", "control", "method"] = "method"
    learns: bool = False


@dataclass(frozen=True)
class AdapterSpec(Spec):
    """An adapter: ``target`` is a subclass of :class:`tokenreduce.backbones.Adapter`.

    Args:
        library: top-level module that a model of this family comes from; the adapter is only imported
            once that module is. Empty: always ask the adapter.
        models: the models it takes, in words.
    """

    library: str = ""
    models: str = ""


@dataclass(frozen=True)
class TaskSpec(Spec):
    """A task for ablations: ``target`` returns a :class:`tokenreduce.Task` when called without arguments.

    Args:
        variants: names in the task's settings that are rows of their own, so that a name that is neither one of them
            nor a reducer's is refused before the model is read; None where the settings themselves must say.
    """

    variants: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PresetSpec(Spec):
    """A named ablation: ``target``, called without arguments, gives the mapping of a request (see ``--grid``).

    Args:
        source: the paper whose rows it repeats.
    """

    source: str = ""


@dataclass(frozen=True)
class LoaderSpec(Spec):
    """A loader of models by name: ``target`` is a subclass of :class:`tokenreduce.tasks.Loader`.

    Args:
        library: top-level module that it needs; empty for none.
        models: what may be named, in words.
    """

    library: str = ""
    models: str = ""
