"""How many operators a method dispatches at a site: the part of its cost that no quiet machine is needed for."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tokenreduce

RESHAPES = {"_unsafe_view", "_reshape_alias"}
MOST = {"tome": 29, "evit": 18, "pumer": 55}


class Operators(TorchDispatchMode):
    """Counts ATen operators that compute something; views and reshapes are left out."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or function.overloadpacket.__name__ in RESHAPES)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224").eval()


def operators(model, reducer, **options):
    x = torch.zeros(1, 3, 224, 224)
    with torch.no_grad(), tokenreduce.attach(model, reducer, **options) as handle, Operators() as seen:
        model(x)
        return seen.count, len(handle.sites)


@pytest.mark.parametrize("reducer", MOST)
def test_operators_per_site(reducer, model):
    base, _ = operators(model, "none")
    count, sites = operators(model, reducer)
    assert (count - base) / sites <= MOST[reducer]


def test_a_block_without_a_site_costs_no_operator_more(model):
    x = torch.zeros(1, 3, 224, 224)
    with torch.no_grad(), Operators() as plain:
        model(x)
    assert operators(model, "none")[0] <= plain.count
    assert operators(model, "evit", layers=[11])[0] - plain.count <= MOST["evit"]
