"""DivPrune: the order of choice, and what stays."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.ops import cosines, farthest

from .case import Case, indices
from .handover import reduced


def check(case: Case) -> Iterator[str]:
    features = case["features"]
    x = features if features.ndim == 3 else features[None]
    order, kept = (case[name] if case[name].ndim == 2 else case[name][None] for name in ("out_order", "out_sorted"))
    yield from indices("order of choice", farthest(cosines(x), order.shape[1]), order)
    yield from indices("kept", reduced("divprune", x, keep=order.shape[1]).keep, kept)


CHECKS = {"divprune": check}
