"""``torch.compile(model)`` after attach, for every training-free method: one graph, whatever the batch size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import tokenreduce
from tokenreduce.errors import UnfitReducerError
from tokenreduce.registry import default_registry

pytestmark = pytest.mark.usefixtures("compiler_from_scratch")

LANGUAGE = {"dart", "pyramiddrop", "sparsevlm"}
"""Methods that read what only a language model has."""
NAMES = sorted(set(default_registry().reducers) - LANGUAGE)
QUICK = "tome"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.sweep) for name in NAMES]
)
def test_one_recompilation_serves_every_batch_size(name, tiny_vit, images, assert_close):
    model = tiny_vit(depth=2 if name == QUICK else 4)
    handle = tokenreduce.attach(model, name)
    if any(isinstance(one.reducer, nn.Module) for one in handle.stacks.values()):
        assert name in ("dynamicvit", "smarttrim")  # they learn; a compiled one is trained in test_compile
        return
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    graphs = []
    for batch in (2, 3, 5, 2):
        x = images(batch, seed=batch)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = model(x)
            torch.manual_seed(0)
            assert_close(compiled(x), expected)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == 1 and graphs[-1] <= 2, graphs
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", sorted(LANGUAGE))
def test_the_others_need_a_language_model(name, tiny_vit):
    with pytest.raises(UnfitReducerError, match="needs"):
        tokenreduce.attach(tiny_vit(), name)
