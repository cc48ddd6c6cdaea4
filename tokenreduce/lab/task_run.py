"""An ablation of a task: the request goes through to the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import OptionError
from ..registry.registry import Registry
from ..tasks.task import Task
from .ablation import Step, run_request
from .part import Part
from .preflight import check_variants, import_named
from .request import Request
from .result import Result
from .store import Store
from .tuned_weights import full_options, label_of

ALL = "all"
"""In place of names: every reducer that needs no training, and every variant of the task."""


def full_request(registry: Registry, request: Request, task: Task, overrides: dict[str, dict[str, object]]) -> Request:
    """The request with every variant and all its options, so that it alone repeats the ablation.

    Args:
        overrides: options over those of the variants, by their names.

    Raises:
        UnknownNameError, OptionError, UnknownOptionError: a name or an option that there is not.
    """
    import_named(task.settings)
    own = [name for name, options in task.settings.items() if "reducer" in options or "weights" in options]
    every = [*ready_reducers(registry), *own]
    given = dict(request.variants or {})
    if ALL in given:
        options = given.pop(ALL)
        if options:
            raise OptionError(f"{ALL!r} stands for every reducer and takes no options, got {options}")
        given = {**{name: {} for name in every}, **given}
    names = list(given) if request.variants is not None else list(standard_rows(registry, task.name) or every)
    variants = {n: {**(given.get(n) or task.settings.get(n, {})), **overrides.get(n, {})} for n in names}
    check_variants(registry, variants)
    return replace(request, variants=variants)


def standard_rows(registry: Registry, task: str) -> tuple[str, ...] | None:
    """The rows that a plugin's task has when none are named; None for everything there is."""
    entry = registry.tasks.get(task)
    return None if entry is None else getattr(entry.spec, "rows", None)


def ready_reducers(registry: Registry) -> list[str]:
    """The reducers that mean something without training."""
    return [name for name, entry in registry.reducers.items() if not getattr(entry.spec, "learns", False)]


def with_tuned(request: Request, folders: Sequence[str]) -> Request:
    """The request with a variant for each folder of fine-tuned weights, called after its reducer."""
    variants = dict(request.variants or {})
    for folder in folders:
        options = full_options({"weights": folder})
        variants[label_of(folder, variants)] = options
    return replace(request, variants=variants)


def run_task(
    request: Request,
    task: Task,
    *,
    store: Store | None = None,
    command: Sequence[str] = (),
    step: Step | None = None,
    trust: bool = False,
    part: Part | None = None,
) -> Result:
    """The ablation of a task that a request asks for; the request names its variants.

    Args:
        command: goes into ``result.setup``.
        store, step, trust, part: as for :func:`tokenreduce.ablate`.
    """
    request, task = replace(request, model=request.model or task.name), task.with_metric(request.metric)
    about = {
        "model": {"name": task.name},
        "data": {"name": request.data or task.description},
        "command": list(command),
    }
    data = task.data(request.samples, min(request.batch, request.samples))
    return run_request(
        request,
        task.model,
        data,
        task.metric,
        {},
        task.settings,
        trust,
        store=store,
        about=about,
        step=step,
        ask=task.ask,
        part=part,
    )
