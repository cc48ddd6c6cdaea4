"""Which rows an ablation has: variants times levels, the baseline, and the controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import OptionError
from ..registry.registry import Registry
from .result import Row
from .tuned_weights import full_options

Variants = Mapping[str, Mapping[str, Any]]


def plan(
    registry: Registry,
    reducers: Sequence[str] | Variants,
    settings: Variants | None = None,
    *,
    ratios: Sequence[float] = (),
    match_macs: Sequence[float] = (),
    stacks: Collection[str] = (),
) -> list[Row]:
    """The rows, without results: the baseline, then the controls, then the others as they were named.

    Args:
        reducers: names, or options by name; with the option ``"reducer"`` the name is a label of one's own, and with
            ``"weights"``, a folder of fine-tuned weights, it has the reducer and options of that folder.
        settings: options that stand in for a reducer's defaults where nothing else is asked for.
        ratios: shares of image tokens to be gone at the end of the stack, one row per variant and share.
        match_macs: shares of the baseline's multiply-adds to remain, likewise.
        stacks: that the model has.

    The baseline is always in, and so is every control of the registry that is for a model with these stacks.

    Raises:
        OptionError: no baseline is installed.
    """
    settings = settings or {}
    given: Variants = {name: {} for name in reducers} if not isinstance(reducers, Mapping) else reducers
    variants = {name: dict(options) for name, options in given.items()}
    for name, options in variants.items():
        if not options:
            variants[name] = dict(settings.get(name, {}))
    variants = {name: full_options(o) if o.get("weights") else o for name, o in variants.items()}
    plain = {name: options for name, options in variants.items() if not options.get("weights")}
    for name in always(registry, stacks):
        if not any(options.get("reducer", label) == name for label, options in plain.items()):
            variants[name] = dict(settings.get(name, {}))
    rows = []
    for label, options in variants.items():
        weights = options.pop("weights", "")
        reducer = options.pop("reducer", label)
        rows.append(Row(label, reducer, options, label, role_of(registry, reducer), weights=weights))
    order = {"baseline": 0, "control": 1, "method": 2}
    if not any(row.role == "baseline" and not row.weights for row in rows):
        raise OptionError("no reducer of the role 'baseline' is installed or enabled; see 'tokenreduce list'")
    rows.sort(key=lambda row: (2, True) if row.weights else (order.get(row.role, 2), False))
    rows = [levelled for row in rows for levelled in at_levels(row, ratios, match_macs)]
    for row in rows:
        if row.weights and row.role == "baseline":  # what training alone does
            row.role = "control"
    return rows


def always(registry: Registry, stacks: Collection[str]) -> list[str]:
    """The reducers of every ablation of a model with these stacks: baselines, then the controls for one of them."""
    found = []
    for role in ("baseline", "control"):
        for name, entry in registry.reducers.items():
            wanted = getattr(entry.spec, "stacks", ()) if role == "control" else ()
            if role_of(registry, name) == role and (not wanted or set(wanted) & set(stacks)):
                found.append(name)
    return found


def at_levels(row: Row, ratios: Sequence[float], match_macs: Sequence[float]) -> list[Row]:
    """The row once per level; a baseline, and a row without levels, once."""
    if row.role == "baseline" or not (ratios or match_macs):
        return [row]
    rows = []
    for share in ratios or match_macs:
        label = f"{row.name} @ {share:g}" if ratios else f"{row.name} @ {100 * share:g} % MACs"
        if len(match_macs) == 1:
            label = row.name
        made = Row(label, row.reducer, dict(row.options), row.variant, row.role, weights=row.weights)
        made.ratio, made.target_macs = (share, None) if ratios else (None, share)
        rows.append(made)
    return rows


def one_per_variant(rows: Sequence[Row]) -> list[Row]:
    """Of each variant that removes tokens, and worked, the row at its middle level."""
    by_variant: dict[str, list[Row]] = {}
    for row in rows:
        if row.failed is None and row.role != "baseline" and row.input_size is None:
            by_variant.setdefault(row.variant, []).append(row)
    return [levels[len(levels) // 2] for levels in by_variant.values()]


def role_of(registry: Registry, reducer: Any) -> str:
    """``"baseline"``, ``"control"`` or ``"method"``; of several stacks' reducers the one that does most."""
    if isinstance(reducer, Mapping):
        parts = [part.get("reducer") if isinstance(part, Mapping) else part for part in reducer.values()]
        roles = {role_of(registry, part) for part in parts}
        return next((role for role in ("method", "control") if role in roles), "baseline")
    entry = registry.reducers.get(reducer) if isinstance(reducer, str) else None
    return "method" if entry is None else str(getattr(entry.spec, "role", "method"))
