"""The hooks of a tokenreduce plugin. Project name and entry-point group are both ``tokenreduce``.

A plugin is a module or object with some of these functions, each marked with ``tokenreduce.registry.hookimpl``:

    # my_package/__init__.py
    import tokenreduce

    @tokenreduce.registry.hookimpl
    def tokenreduce_reducers():
        yield tokenreduce.registry.ReducerSpec("key-norm", "my_package.method:KeyNorm", "keep tokens with long keys")

    # pyproject.toml
    [project.entry-points.tokenreduce]
    my-package = "my_package"

It may say which interface it was written against, ``tokenreduce_interface = 1``; without that it is taken to be for
the present one. A plugin for another interface is refused and reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .spec import AdapterSpec, LoaderSpec, PresetSpec, ReducerSpec, TaskSpec

PROJECT = "tokenreduce"
INTERFACE = 1  # of plugins: goes up when one that works today would have to change
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tokenreduce_reducers() -> Iterable[ReducerSpec]:
    """Yield the reducers of this plugin.

    Example:
        yield ReducerSpec("key-norm", "my_package.method:KeyNorm", "keep tokens with long keys")
    """
    return ()


@hookspec
def tokenreduce_adapters() -> Iterable[AdapterSpec]:
    """Yield the adapters of this plugin.

    Example:
        yield AdapterSpec("my-vit", "my_package.adapter:MyViT", "my own ViT", library="my_models")
    """
    return ()


@hookspec
def tokenreduce_tasks() -> Iterable[TaskSpec]:
    """Yield the tasks of this plugin: a model, data and a metric, for ablations.

    Example:
        yield TaskSpec("flowers", "my_package.task:flowers", "102 kinds of flowers with a small ViT")
    """
    return ()


@hookspec
def tokenreduce_presets() -> Iterable[PresetSpec]:
    """Yield the named ablations of this plugin, for ``tokenreduce ablate --preset NAME``.

    Example:
        yield PresetSpec("key-norm-paper", "my_package.presets:paper", "the ablation table of the paper")
    """
    return ()


@hookspec
def tokenreduce_loaders() -> Iterable[LoaderSpec]:
    """Yield the loaders of this plugin: what turns ``--model NAME --data FILE`` into a task.

    Example:
        yield LoaderSpec("my-zoo", "my_package.loader:Zoo", "models of my zoo", library="my_models")
    """
    return ()
