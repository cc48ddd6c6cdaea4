"""Which rows an ablation has: variants times levels, the baseline, and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import OptionError, nearest
from ..registry.registry import Registry
from .finetuned import full_options
from .reducer_objects import Classes, name_objects
from .result import Row

Variants = Mapping[str, Mapping[str, Any]]


def plan(
    registry: Registry,
    reducers: Sequence[str] | Variants,
    settings: Variants | None = None,
    *,
    ratios: Sequence[float] = (),
    match_macs: Sequence[float] = (),
    classes: Classes | None = None,
) -> list[Row]:
    """The rows, without results: the baseline, then the controls, then the others as they were named.

    Args:
        reducers: names, or options by name; with the option ``"reducer"`` the name is a label of one's own, and with
            ``"weights"``, a folder of fine-tuned weights, it has the reducer and options of that folder.
        settings: options that stand in for a reducer's defaults where nothing else is asked for.
        ratios: shares of image tokens to be gone at the end of the stack, one row per variant and share.
        match_macs: shares of the baseline's multiply-adds to remain, likewise.
        classes: gets the class of every reducer that is given as an object.

    The baseline and every control of the registry are always in.

    Raises:
        OptionError: nothing to compare, both ratios and match_macs, or a level outside (0, 1).
    """
    check_levels(ratios, match_macs)
    settings = settings or {}
    given: Variants = {name: {} for name in reducers} if not isinstance(reducers, Mapping) else reducers
    variants = {name: dict(options) for name, options in given.items()}
    for name, options in variants.items():
        if not options:
            variants[name] = dict(settings.get(name, {}))
    variants = {name: full_options(o) if o.get("weights") else o for name, o in variants.items()}
    plain = {name: options for name, options in variants.items() if not options.get("weights")}
    by_role = [(role, n) for role in ("baseline", "control") for n in registry.reducers if role_of(registry, n) == role]
    for _, name in by_role:
        if not any(options.get("reducer", label) == name for label, options in plain.items()):
            variants[name] = dict(settings.get(name, {}))
    rows = []
    for label, options in variants.items():
        weights = options.pop("weights", "")
        reducer, own = name_objects(options.pop("reducer", label), {} if classes is None else classes)
        rows.append(Row(label, reducer, {**own, **options}, label, role_of(registry, reducer), weights=weights))
    order = {"baseline": 0, "control": 1, "method": 2}
    if not any(row.role == "baseline" and not row.weights for row in rows):
        raise OptionError("no reducer of the role 'baseline' is installed or enabled; see 'tokenreduce list'")
    rows.sort(key=lambda row: (2, True) if row.weights else (order.get(row.role, 2), False))
    rows = [levelled for row in rows for levelled in at_levels(row, ratios, match_macs)]
    for row in rows:
        if row.weights and row.role == "baseline":  # what training alone does
            row.role = "control"
    return rows


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


def check_levels(ratios: Sequence[float], match_macs: Sequence[float]) -> None:
    """Raise OptionError for levels that cannot be."""
    if ratios and match_macs:
        raise OptionError("rows are levelled by ratios or by match_macs, not by both")
    for name, levels in (("ratios", ratios), ("match_macs", match_macs)):
        for value in levels:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
                raise OptionError(f"{name} are shares between 0 and 1, both left out, for example 0.5; got {value!r}")
        if len(set(levels)) < len(levels):
            raise OptionError(f"{name} holds a level twice: {', '.join(map(str, levels))}")


def role_of(registry: Registry, reducer: Any) -> str:
    """``"baseline"``, ``"control"`` or ``"method"``; of several stacks' reducers the one that does most."""
    if isinstance(reducer, Mapping):
        parts = [part.get("reducer") if isinstance(part, Mapping) else part for part in reducer.values()]
        roles = {role_of(registry, part) for part in parts}
        return next((role for role in ("method", "control") if role in roles), "baseline")
    entry = registry.reducers.get(reducer) if isinstance(reducer, str) else None
    return "method" if entry is None else str(getattr(entry.spec, "role", "method"))


def parse_ratios(text: str) -> list[float]:
    """``"0.1:0.6:0.1"`` (first, last, step; the last one is in) or ``"0.2,0.4"`` to numbers.

    Raises:
        OptionError: neither form.
    """
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",") if part.strip()]
        first, last, step = (float(part) for part in text.split(":"))
        if not step > 0 or last < first:
            raise ValueError
        return [round(first + i * step, 10) for i in range(int((last - first) / step + 1e-9) + 1)]
    except ValueError:
        raise OptionError(
            f"levels are FIRST:LAST:STEP (0.1:0.6:0.1) or numbers with commas (0.2,0.4), got {text!r}"
        ) from None


def check_fields(fields: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    """Raise OptionError for a key that nobody would read."""
    for name in fields:
        if name not in valid:
            raise OptionError(f"{where} has no entry {name!r}.{nearest(name, valid)}")
