"""VisPruner: what stays."""

from __future__ import annotations

from collections.abc import Iterator

from .case import Case, indices
from .handover import mask, reduced


def check(case: Case) -> Iterator[str]:
    params, features = case.params, case["features"]
    signals = {"class_attention": case["cls_attention"].mean(dim=1), "encoder_features": features}
    options = {"keep": params["visual_token_num"], "important": params["important_ratio"]}
    yield from indices("kept", mask(reduced("vispruner", features, signals, **options)), case["out_mask"])


CHECKS = {"vispruner": check}
