"""SVD-Prune's leverage scores and E-AdaPrune's energy ranks against an oracle in numpy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

import tokenreduce
from reference_checks.case import Case, indices, values
from tokenreduce import testing
from tokenreduce.methods import Backbone, Streams
from tokenreduce.ops import energy_rank, leverage

SHARES = (0.8, 0.9, 0.95, 0.99)
TIE = 1e-10
ENCODER = Backbone("encoder", 12, ("image",), frozenset(), False, "an encoder")


def kept(x: Tensor, keep: int, energy: float, centre: bool) -> Tensor:
    """Indices (B, K) that svd-prune keeps."""
    made = tokenreduce.registry.default_registry().load("reducer", "svd-prune")
    reducer = made(keep=keep, energy=energy, centre=centre).bind(ENCODER)
    found = reducer.reduce_streams(Streams({"image": testing.stream(x)}, "image"), testing.site())
    keep_index: Tensor = found["image"].keep if found else torch.arange(x.shape[1]).expand(x.shape[:2])
    return keep_index


def numbers(x: Tensor, share: float, centre: bool) -> Tensor:
    """(B,) how many tokens e-adaprune keeps around a method that ranks them."""
    made = tokenreduce.registry.default_registry().load("reducer", "e-adaprune")
    options = {"selector": "svd-prune", "energy": share, "min_keep": 1, "max_keep": x.shape[1], "centre": centre}
    reducer = made(**options).bind(ENCODER)
    found = reducer.reduce_streams(Streams({"image": testing.stream(x)}, "image"), testing.site())
    counts: Tensor = found["image"].counts() if found else torch.full(x.shape[:1], x.shape[1])
    return counts


def shares_of(case: Case) -> tuple[float, ...]:
    """Shares of the energy whose ranks are in the file: a parameter, or as the text beside it says."""
    told = re.search(r"tau\s*=\s*([\d.,\s]+\d)", case.info.get("meaning", ""))
    given = case.params.get("tau_for_rank") or (re.split(r"[,\s]+", told[1]) if told else SHARES)
    return tuple(float(one) for one in given)


def check(case: Case) -> Iterator[str]:
    """Raw and centred."""
    x = case["features"]
    energy = float(case.params.get("tau_for_leverage", 0.9))
    shares = shares_of(case)
    for name, centre in (("raw", False), ("centred", True)):
        if f"leverage_{name}" not in case:
            continue
        score, order = leverage(x, energy, centre=centre), case[f"order_{name}"]
        yield from values(f"leverage {name}", score, case[f"leverage_{name}"], 1e-9)
        falling = score.gather(1, order)
        each = torch.equal(order.sort(dim=1).values, torch.arange(x.shape[1]).expand(x.shape[:2]))
        if not each or (falling.diff(dim=1) > TIE).any():  # in a file the order of ties is rounding
            yield from indices(f"order {name}", score.argsort(dim=1, descending=True, stable=True), order)
        for keep in sorted({1, x.shape[1] // 4, x.shape[1] // 2} - {0}):
            clear = (falling[:, keep - 1] - falling[:, min(keep, x.shape[1] - 1)]).abs() > TIE
            expected = order[clear, :keep].sort(dim=1).values
            yield from indices(f"svd-prune {name}, {keep} kept", kept(x, keep, energy, centre)[clear], expected)
        ranks = case[f"energy_rank_{name}"]
        got = torch.stack([energy_rank(x, share, centre=centre) for share in shares])
        yield from indices(f"energy rank {name}", got, ranks)
        counts = torch.stack([numbers(x, share, centre) for share in shares])
        yield from indices(f"e-adaprune {name}", counts, ranks)


CHECKS = {"spectral_own_definition": check, "spectral": check}
