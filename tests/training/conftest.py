"""Learnable reducers as a user writes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tokenreduce.methods import BaseReducer, BoundReducer, Budget, Gate


class Scorer(BaseReducer):
    """A linear score per site: tokens with the lowest go; in training they are gated, and a loss wants half of them."""

    keep: Any = 0.5
    weight: float = 1.0
    layers_of: tuple[int, ...] = (1, 2)

    def budgets(self):
        return {"keep": Budget.of("keep", self.keep)}

    def layers(self, backbone):
        return list(self.layers_of)

    def bind(self, backbone):
        return Scores(self, backbone)


class Scores(BoundReducer, nn.Module):
    """A scorer on one model."""

    def __init__(self, reducer, backbone):
        super().__init__(reducer)
        self.scores = nn.ModuleList([nn.Linear(backbone.width, 1) for _ in range(backbone.sites)])

    def score(self, stream, site):
        return self.scores[site.index](stream.tokens.x)[..., 0]

    def reduce_streams(self, streams, site):
        stream = streams[streams.main]
        score = self.score(stream, site)
        if not stream.training:
            remove = self.reducer.budget.at(site, stream.tokens.removable)
            return {streams.main: stream.tokens.keep_top(score, remove=remove)} if remove else {}
        gate = score.sigmoid() if stream.gate is None else score.sigmoid() * stream.gate
        streams.add_loss("share", self.reducer.weight * (gate.mean() - 0.5).square())
        return {streams.main: Gate(gate)}


class EarlyScorer(Scorer):
    """The same before the block."""

    position = "before_block"


class Sharp(Scorer):
    """Removes its tokens in training too, weighted by their score, so that a gradient reaches the score."""

    def bind(self, backbone):
        return SharpScores(self, backbone)


class SharpScores(Scores):
    """The same on one model."""

    def reduce_streams(self, streams, site):
        stream = streams[streams.main]
        score = self.score(stream, site)
        reduction = stream.tokens.keep_top(score, remove=self.reducer.budget.at(site, stream.tokens.removable))
        reduction.keep_weight = score.sigmoid().gather(1, reduction.keep)
        reduction.mean = False
        return {streams.main: reduction}


@pytest.fixture(params=[Scorer, EarlyScorer, Sharp])
def kind(request):
    """A class of learnable reducers."""
    return request.param


@pytest.fixture(scope="session")
def scorer():
    return Scorer


@pytest.fixture(scope="session")
def early_scorer():
    return EarlyScorer


@pytest.fixture(params=["vit", "vilt"])
def case(request, tiny_vit, tiny_vilt, images, vilt_inputs):
    """A model and a function that runs one like it to logits."""
    if request.param == "vit":
        return tiny_vit(), lambda model: model(images())
    return tiny_vilt(), lambda model: model(**vilt_inputs(2)).logits


@pytest.fixture(scope="session")
def total():
    """The sum of a handle's losses."""
    return lambda handle: torch.stack(list(handle.last.losses.values())).sum()
