"""What can be seen to be wrong with variants before any model is read: names and options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import OptionError, PluginError, UnknownNameError, nearest
from ..methods.factory import plan_reducers
from ..registry.registry import Registry
from ..registry.targets import names_from_file, resolve_target
from .tuned_weights import full_options


def check_variants(
    registry: Registry, variants: Mapping[str, Mapping[str, Any]], settings: tuple[str, ...] | None = ()
) -> None:
    """Make the reducers of variants, and let them go.

    A plugin that is broken is no error here: its row will say so, and the others have theirs.

    Args:
        settings: labels that the task has options for, beside the names of reducers; None where nobody knows them yet,
            so that any label may be one.

    Raises:
        UnknownNameError, OptionError, UnknownOptionError: as :func:`tokenreduce.attach` has them; the message names
            the variant.
    """
    for label, options in variants.items():
        given = full_options(options) if options.get("weights") else dict(options)
        reducer = given.pop("reducer", label)
        given.pop("weights", None)
        if reducer == label and label not in registry.reducers and ":" not in label:
            if settings is None or label in settings:
                continue
            if not any(label in broken.names for broken in registry.broken):
                known = nearest(label, [*registry.reducers, *settings])
                raise UnknownNameError(f"no reducer is called {label!r}.{known} See 'tokenreduce list'.")
        try:
            plan_reducers(registry, reducer, given.pop("layers", None), given)
        except PluginError:
            continue
        except (UnknownNameError, OptionError) as error:
            raise type(error)(f"variant {label!r}: {error}") from error


def import_named(variants: Any) -> None:
    """Import what variants that come with a plugin name by module; a failure is its row's to tell."""
    with names_from_file("", trust=True):
        for name in reducer_names(variants):
            if ":" in name:
                with contextlib.suppress(PluginError):
                    resolve_target(name)


def reducer_names(value: Any) -> Iterator[str]:
    """Every name that stands for a reducer in a nest of mappings and lists."""
    if isinstance(value, Mapping):
        if isinstance(value.get("reducer"), str):
            yield value["reducer"]
        for one in value.values():
            yield from reducer_names(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from reducer_names(one)
