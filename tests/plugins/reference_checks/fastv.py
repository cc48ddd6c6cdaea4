"""FastV: which tokens of the whole sequence stay, and their positions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .case import Case, indices
from .handover import reduced


def check(case: Case) -> Iterator[str]:
    begin, count = case.params["image_start"], case.params["image_len"]
    row = case["attention"].mean(dim=1)[:, -1, begin : begin + count]
    kept = reduced("fastv", case["hidden"][:, begin : begin + count], {"readout_attention": row}, keep=published(case))
    behind = torch.arange(begin + count, case["hidden"].shape[1])
    whole = torch.cat([torch.arange(begin), begin + kept.keep[0], behind])[None]
    yield from indices("kept", whole, case["out_keep_indices"][None])
    yield from indices("positions", whole, case["out_position_ids"])


def published(case: Case) -> int:
    """How many tokens of the image stay."""
    return int(case.params.get("kept") or round(case.params["image_len"] * (1 - case.params["r"])))


CHECKS = {"fastv": check}
