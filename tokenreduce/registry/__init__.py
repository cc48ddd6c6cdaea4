"""Who offers what: the hooks of plugins, their specs, and the registry of what is installed. Imports no torch."""

from __future__ import annotations

from .hookspecs import INTERFACE, hookimpl
from .registry import Broken, Entry, Registry, default_registry, rescan, use_registry
from .spec import AdapterSpec, LoaderSpec, PresetSpec, ReducerSpec, ReproductionSpec, Spec, TaskSpec

__all__ = [
    "INTERFACE",
    "AdapterSpec",
    "Broken",
    "Entry",
    "LoaderSpec",
    "PresetSpec",
    "ReducerSpec",
    "Registry",
    "ReproductionSpec",
    "Spec",
    "TaskSpec",
    "default_registry",
    "hookimpl",
    "rescan",
    "use_registry",
]
