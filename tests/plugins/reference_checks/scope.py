"""SCOPE: the order of choice, and what stays."""

from __future__ import annotations

from collections.abc import Iterator

from tokenreduce.ops import cosines, facility_location

from .case import Case, indices
from .handover import ascending, reduced


def check(case: Case) -> Iterator[str]:
    params, features, attention = case.params, case["features"], case["cls_attention"]
    keep, alpha = params["kept"], params.get("alpha", 1.0)
    order = facility_location(cosines(features), attention**alpha, keep)
    yield from indices("order of choice", order, case["out_order"])
    kept = reduced("scope", features, {"class_attention": attention}, keep=keep, alpha=alpha).keep
    yield from indices("kept", kept, ascending(case["out_order"]))


CHECKS = {"scope": check}
