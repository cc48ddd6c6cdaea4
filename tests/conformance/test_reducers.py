"""The kit over the registry: a reducer is tested by being there, with its defaults or those named here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import tokenreduce
from tokenreduce.backbones.causal import BETWEEN_LAYERS
from tokenreduce.testing import KINDS, ReducerConformance
from tokenreduce.testing.model_laws import ModelLaws
from tokenreduce.testing.stream_laws import StreamLaws

READ = [name for name, (_, read, _) in KINDS.items() if read]  # a token that the head reads tells what matters
TEXT = [name for name in KINDS if "text" in name]
FEW = ["image, tokens are pooled", "text and image in one sequence, text is given back"]
BY_THE_READER = ("evit", "pumer", "diffrate", "ats")  # by default; with other options they run elsewhere too
COMPILED = {"compiled": ["image, a class token is read"]}
NOT_COMPILED = {"test_compiles_without_a_break": None}
SPOKEN = {name: getattr(ModelLaws, name) for name in ("test_some_backbone_takes_it", "test_what_the_spec_says")}
FIRST: dict[str, dict[str, Any]] = {
    "random": {"keep": 0.6},
    "tome": {"r": 3},
    "evit": {"keep": 0.6, "saliency": "key-norm"},
    "pumer": {"saliency": "key-norm", "merge": 0.5, "prune": 0.2},
    "dynamicvit": {"keep": 0.6},
    "pitome": {"keep": 0.8},
    "tofu": {"r": 3},
    "ats": {"keep": 0.8, "saliency": "key-norm"},
    "diffrate": {"prune": 2, "merge": 3, "saliency": "key-norm"},
    "smarttrim": {"odds": 148.0},  # about e^5, the odds of keeping a token that new trimmers begin with
    "e-adaprune": {"energy": 0.7, "min_keep": 2, "max_keep": 12},
}


def conformance(
    reducer: str,
    settings: Sequence[Mapping[str, Any]],
    backbones: Sequence[str] = tuple(KINDS),
    *,
    compiled: bool = False,
) -> type[ReducerConformance]:
    """A class of tests."""
    own = {"reducer": reducer, "settings": settings, "backbones": backbones}
    return type("Test", (ReducerConformance,), own | (COMPILED if compiled else NOT_COMPILED))


for _name, _entry in tokenreduce.registry.default_registry().reducers.items():
    if BETWEEN_LAYERS & set(getattr(_entry.spec, "needs", ())):  # on whole models: tests/language/test_methods.py
        globals()[f"Test_{_name}"] = type("Test", (StreamLaws,), {"reducer": _name, "backbones": (), **SPOKEN})
        continue
    _kinds = [kind for kind in KINDS if kind not in READ or kind in FEW] if _name in BY_THE_READER else list(KINDS)
    _kinds = READ if _name == "fastv" else _kinds
    globals()[f"Test_{_name}"] = conformance(_name, [FIRST.get(_name, {})], _kinds, compiled=_name not in BY_THE_READER)

TestOneSettingOfRandom = conformance("random", [{"remove": 3}], FEW)
TestOneSettingOfToMe = conformance("tome", [{"r": 4, "proportional_attention": False}], FEW)
TestOneSettingOfEViT = conformance("evit", [{"keep": 0.6, "saliency": "random"}, {"fuse": False}], FEW[1:])
TestOneSettingOfPuMer = conformance("pumer", [{"prune": 0.0, "merge": 0.3}, {"saliency": "random"}], FEW)
TestOneSettingOfPiToMe = conformance("pitome", [{"keep": 0.6, "margin": 0.5, "proportional_attention": False}], FEW)
TestOneSettingOfToFu = conformance("tofu", [{"r": 4, "merge_from": 0}, {"r": 4, "preserve_norm": False}], FEW)
TestOneSettingOfDiffRate = conformance(
    "diffrate", [{"prune": 0, "merge": 3, "similarity": "keys", "saliency": "random"}], FEW
)
TestByTheReader = conformance("evit", [{"keep": 0.6}], READ, compiled=True)
TestSmartTrimOfHeads = conformance(
    "smarttrim", [{"odds": 148.0, "text_keep": 1.0, "head_keep": 0.5}], FEW, compiled=True
)
TestDiffRateByTheReader = conformance("diffrate", [{"prune": 1, "merge": [2, 0, 3]}], READ, compiled=True)
ENERGY = tokenreduce.Budget.energy(0.7, cap=12).to_json()
TestATSByTheReader = conformance("ats", [{"keep": 0.8}, {"keep": ENERGY}], READ, compiled=True)
TestEViTByARule = conformance("evit", [{"keep": ENERGY, "saliency": "key-norm"}], list(KINDS), compiled=True)
TestEViTByAScore = conformance(
    "evit",
    [{"keep": tokenreduce.Budget.cumulative(0.6, cap=9, bucket=4).to_json(), "saliency": "key-norm", "fuse": False}],
    FEW,
)
TestRandomByARule = conformance("random", [{"keep": ENERGY}], list(KINDS), compiled=True)
TestChainByARule = conformance(
    "tokenreduce.methods.chain:Chain",
    [
        {
            "parts": [
                {"reducer": "evit", "keep": ENERGY, "saliency": "key-norm"},
                {"reducer": "ats", "saliency": "key-norm"},
            ]
        }
    ],
    FEW,
)
TestVisPrunerByARule = conformance("vispruner", [{"keep": ENERGY}], FEW[:1])
TestVisionZipByARule = conformance("visionzip", [{"keep": ENERGY, "contextual": 0.4}], FEW[:1])
TestCDPrunerByARule = conformance("cdpruner", [{"keep": ENERGY}], FEW[:1])
TestPoolingByARule = conformance("pooling", [{"keep": ENERGY}], FEW[:1])
TestByTheText = conformance("evit", [{"keep": 0.6, "saliency": "text"}], TEXT)
TestPublished = conformance("pumer", [{}], READ, compiled=True)
TestAcrossModalities = conformance("pumer", [{"modality_aware": False}], [kind for kind in TEXT if "one" in kind])
TestChain = conformance(
    "tokenreduce.methods.chain:Chain",
    [
        {"parts": [{"reducer": "evit", "keep": 0.8}, {"reducer": "tome", "r": 2}]},
        {"parts": [{"reducer": "tome", "r": 2}, {"reducer": "random", "keep": 0.8, "layers": [2, 3]}, "none"]},
    ],
    ["image, tokens are pooled beside a class token", *FEW[1:]],
)


def test_settings_are_of_reducers_that_exist() -> None:
    assert set(FIRST) <= set(tokenreduce.registry.default_registry().reducers)


@pytest.mark.parametrize("name", KINDS)
def test_there_is_a_backbone_of_each_kind(name: str) -> None:
    from tokenreduce.testing.models import names_of_kinds

    assert KINDS[name] in names_of_kinds()
