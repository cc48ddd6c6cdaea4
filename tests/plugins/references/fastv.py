"""FastV: which tokens of the whole sequence stay, and their positions."""

import torch

from tokenreduce.methods import Streams
from tokenreduce.testing import site, stream
from tokenreduce_methods.fastv.method import FastV


def check(case, tensors):
    """Raise AssertionError where the published selection is not reproduced.

    Args:
        case: the JSON beside the tensors.
        tensors: by name, inputs and outputs (``out_...``).
    """
    given = case["params"]
    begin, count = given["image_start"], given["image_len"]
    kept = given.get("kept") or round(count * (1 - given["r"]))
    row = tensors["attention"].mean(dim=1)[:, -1, begin : begin + count]
    image = stream(tensors["hidden"][:, begin : begin + count], readout_attention=row)
    chosen = FastV(keep=kept).reduce_streams(Streams({"image": image}, "image"), site())
    keep = chosen["image"].keep[0] if chosen else torch.arange(count)
    rest = torch.arange(begin + count, tensors["hidden"].shape[1])
    indices = torch.cat([torch.arange(begin), begin + keep, rest])
    assert torch.equal(indices, tensors["out_keep_indices"])
    assert torch.equal(indices[None], tensors["out_position_ids"])
