"""SparseVLM, version 1: the score by the raters' rows, which tokens stay, and the new tokens of a clustering."""

import torch

from tokenreduce.methods import Tokens
from tokenreduce_methods.sparsevlm.method import SparseVLM
from tokenreduce_methods.sparsevlm.raters import rated, score
from tokenreduce_methods.sparsevlm.recycling import clusters


def check(case, tensors):
    """Raise AssertionError where the published selection and clustering are not reproduced.

    Args:
        case: the JSON beside the tensors.
        tensors: by name, inputs and outputs (``out_...``, ``cluster_out``).
    """
    given = case["params"]
    begin, count = given["v_start"], given["N"]
    rows = tensors["attention"][..., begin : begin + count].permute(0, 3, 2, 1)
    raters = torch.ones(1, rows.shape[2], dtype=torch.bool)
    relation = score(rated(rows, raters), raters)
    torch.testing.assert_close(relation, tensors["out_relation"], atol=1e-6, rtol=1e-5)
    kept = min(given["kept"], count - 1)
    reduction = SparseVLM(keep=kept, recycle=0).reduction(Tokens(torch.zeros(1, count, 1)), relation, [kept])
    assert torch.equal(reduction.keep, tensors["out_mask"].bool().nonzero()[:, 1][None])
    members = clusters(tensors["cluster_in"][0], given["clusters"])
    means = torch.stack([tensors["cluster_in"][0][members == one].mean(dim=0) for one in range(given["clusters"])])
    torch.testing.assert_close(means, tensors["cluster_out"][0], atol=1e-4, rtol=1e-4)
