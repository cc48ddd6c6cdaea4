"""DART: which image tokens stay, pivots choosing in the published order."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokenreduce.methods import Streams
from tokenreduce.testing import site, stream
from tokenreduce_methods.dart.method import DART

from .case import Case, indices


def check(case: Case) -> Iterator[str]:
    given = case.params
    begin, count = given["image_start"], given["image_len"]
    pivots = given["pivot_image_token"], given["pivot_text_token"]
    kept = pivots[0] + sum(pivots) * int(count * (1 - given["reduction_ratio"]) / sum(pivots))
    states, keys = case["hidden_normed"], case["key_states"].transpose(1, 2).flatten(2)
    columns = torch.arange(states.shape[1])[None]
    own, text = slice(begin, begin + count), slice(begin + count, None)
    image = stream(
        states[:, own],
        rotated_keys=keys[:, own],
        normed_states=states[:, own],
        columns=columns[:, own],
        text_keys=keys[:, text],
        text_states=states[:, text],
        text_columns=columns[:, text],
    )
    reducer = DART(keep=min(kept, count), image_pivots=pivots[0], text_pivots=pivots[1], order="set")
    chosen = reducer.reduce_streams(Streams({"image": image}, "image"), site())
    keep = chosen["image"].keep[0] if chosen else torch.arange(count)
    yield from indices("kept", begin + keep[None], case["out_kept_sorted"].reshape(1, -1))


CHECKS = {"dart": check}
