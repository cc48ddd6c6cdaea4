"""DART: which image tokens stay, pivots choosing in the published order."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .case import Case, indices
from .handover import reduced


def check(case: Case) -> Iterator[str]:
    given = case.params
    begin, count = given["image_start"], given["image_len"]
    pivots = given["pivot_image_token"], given["pivot_text_token"]
    kept = pivots[0] + sum(pivots) * int(count * (1 - given["reduction_ratio"]) / sum(pivots))
    states, keys = case["hidden_normed"], case["key_states"].transpose(1, 2).flatten(2)
    columns = torch.arange(states.shape[1])[None]
    image, text = slice(begin, begin + count), slice(begin + count, None)
    signals = {
        "rotated_keys": keys[:, image],
        "normed_states": states[:, image],
        "columns": columns[:, image],
        "text_keys": keys[:, text],
        "text_states": states[:, text],
        "text_columns": columns[:, text],
    }
    options = {"keep": kept, "image_pivots": pivots[0], "text_pivots": pivots[1], "order": "set"}
    chosen = reduced("dart", states[:, image], signals, **options)
    yield from indices("kept", begin + chosen.keep, case["out_kept_sorted"][None])


CHECKS = {"dart": check}
