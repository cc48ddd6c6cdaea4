"""FastV: which tokens of the whole sequence stay, and their positions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokenreduce.methods import Streams
from tokenreduce.testing import site, stream
from tokenreduce_methods.fastv.method import FastV

from .case import Case, indices


def check(case: Case) -> Iterator[str]:
    given = case.params
    begin, count = given["image_start"], given["image_len"]
    kept = given.get("kept") or round(count * (1 - given["r"]))
    row = case["attention"].mean(dim=1)[:, -1, begin : begin + count]
    image = stream(case["hidden"][:, begin : begin + count], readout_attention=row)
    chosen = FastV(keep=kept).reduce_streams(Streams({"image": image}, "image"), site())
    keep = chosen["image"].keep[0] if chosen else torch.arange(count)
    rest = torch.arange(begin + count, case["hidden"].shape[1])
    got = torch.cat([torch.arange(begin), begin + keep, rest])[None]
    yield from indices("kept", got, case["out_keep_indices"].reshape(1, -1))
    yield from indices("positions", got, case["out_position_ids"].reshape(1, -1))


CHECKS = {"fastv": check}
