"""SparseVLM, version 1: the score by the raters' rows, which tokens stay, and the new tokens of a clustering."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokenreduce.methods import Tokens
from tokenreduce_methods.sparsevlm.method import SparseVLM
from tokenreduce_methods.sparsevlm.raters import rated, score
from tokenreduce_methods.sparsevlm.recycling import clusters

from .case import Case, indices, values


def check(case: Case) -> Iterator[str]:
    given = case.params
    begin, count = given["v_start"], given["N"]
    rows = case["attention"][..., begin : begin + count].permute(0, 3, 2, 1)
    raters = torch.ones(1, rows.shape[2], dtype=torch.bool)
    relation = score(rated(rows, raters), raters)
    yield from values("score", relation, case["out_relation"])
    kept = min(given["kept"], count - 1)
    reduction = SparseVLM(keep=kept, recycle=0).reduction(Tokens(torch.zeros(1, count, 1)), relation, [kept])
    yield from indices("kept", reduction.keep, case["out_mask"].bool().nonzero()[:, 1][None])
    members = clusters(case["cluster_in"][0], given["clusters"])
    means = torch.stack([case["cluster_in"][0][members == one].mean(dim=0) for one in range(given["clusters"])])
    yield from values("clusters", means, case["cluster_out"][0])


CHECKS = {"sparsevlm_v1": check, "sparsevlm": check}
