"""Which part of a long product of models and reducers is for the sweep (``pytest -m sweep``) alone.

In the main suite every model meets reducers of each kind of behaviour, and every reducer models of each kind; in the
sweep all meet all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest

Given = Mapping[str, Any]
"""The parameters of a test by name, that of its class under ``class``."""

EVERYWHERE = ("random", "tome", "evit", "ByTheReader", "pumer", "Published", "dynamicvit", "ats")
"""They drop at random, merge, drop by a signal, prune and merge by the text, learn, keep other counts by sample."""
KINDS = (
    "image, a class token is read",
    "image, tokens are pooled",
    "text and image in one sequence, text is given back",
    "text and image in two sequences",
)
"""One for each way in which text and image come and are read, for all the others."""
RARE = ("training_reaches", "half_precision", "the_same_whatever", "an_exception", "config_copies", "detach_leaves")
"""Laws that one model for images and one with text tell enough about."""
COMPILED = ("tome", "pumer")
"""One that merges in images, one that drops and merges in both modalities."""
COMPILING = ("hf-vilt", "meter", "timm-vit")
"""Adapters whose first example is compiled."""
LAWS = ("without_reduction", "takes_its_examples", "tokens_go", "samples", "signals", "restored", "detach")
"""What an adapter has to hold to on every example."""
FAMILIES = ("llava", "gemma3", "qwen2_5_vl")
"""Language models that meet every plan: one token by patch, pooled and sliding, of all sizes and with mRoPE."""
PLANS = {
    "hand-over",  # of test_generate and test_training
    "recycled",
    "text",
    "both",  # of test_oracle
    "random at the hand-over",  # of test_batches
    "pyramiddrop",
    "sparsevlm, images one by one",
}
"""For the other families: before the first layer, between layers, both, by image and by sample."""


def reducers(given: Given) -> bool:
    """The kit for reducers: models by kind, and what is compiled."""
    if "compiled_backbone" in given:
        return name_of(given["class"]) in COMPILED
    rare = given["test"].removeprefix("test_").startswith(RARE)
    if name_of(given["class"]) in EVERYWHERE:
        kinds: Sequence[str] = KINDS[::2] if rare else (given.get("backbone", ""),)
    elif given["class"].startswith("Test_"):
        kinds = KINDS[2:3] if rare else KINDS[::2]
    else:  # other options of what is tried with its defaults
        kinds = KINDS[2:3]
    return given.get("backbone", kinds[0]) in kinds


def name_of(tests: str) -> str:
    """What a class of tests is of."""
    return tests.removeprefix("Test").removeprefix("_")


def adapters(given: Given) -> bool:
    """The kit for adapters: some laws on every example, all of them on the first three."""
    if "label" not in given:
        return True
    if given["test"].startswith("test_compiles"):
        return given["adapter"] in COMPILING and given["label"] in first(given["adapter"])[:1]
    law = given["test"].removeprefix("test_").startswith(LAWS) and str(given.get("dtype", "32")).endswith("32")
    return law or given["label"] in first(given["adapter"])


@cache
def first(adapter: str) -> tuple[str, ...]:
    """The labels of an adapter's first three examples."""
    from tokenreduce.registry import default_registry

    return tuple(default_registry().load("adapter", adapter)().examples())[:3]


def language(given: Given) -> bool:
    """Language models: family and plan, or place."""
    plan = given.get("plan", given.get("place"))
    return plan is None or given.get("family", FAMILIES[0]) in FAMILIES or plan in PLANS


def exported(given: Given) -> bool:
    """One that drops traced on every model, one that merges exported on one."""
    way = (given["how"], given["reducer"])
    return way == ("trace", "random") or (given["label"] == "ViT" and way == ("export", "tome"))


def formats(given: Given) -> bool:
    """Files for servers: one method that sorts stably, on the quickest model."""
    return given["family"] == "timm" and given["method"] == "evit"


def compiled(given: Given) -> bool:
    """Changes of a compiled model after its first pass, where they could go unnoticed."""
    return given["when"] == "after it" and given["change"] not in ("class", "shorter", "swapped", "mlp", "norm")


def ragged(given: Given) -> bool:
    """One model of each adapter."""
    adapter, _, label = given["name"].partition(": ")
    return label in first(adapter)[:1]


def pages(given: Given) -> bool:
    """Pages whose code does not take long."""
    return given["page"].stem not in ("ablate", "compose", "deploy", "quickstart", "troubleshooting")


def commands(given: Given) -> bool:
    """What a plugin does wrong in a command that needs no model; the others are processes that load one."""
    return given["command"][0] == "info"


STAYS: dict[str, Callable[[Given], bool]] = {
    r"conformance/test_reducers\.py::Test": reducers,
    r"conformance/test_adapters\.py::Test": adapters,
    r"language/test_(generate|batches|oracle|training)\.py": language,
    r"adapters/test_exported\.py::test_every_adapter": exported,
    r"export/test_formats\.py::test_what_the_page": formats,
    r"adapters/test_compile\.py::test_what": compiled,
    r"adapters/test_ragged\.py::test_a_sample_alone": ragged,
    r"docs/test_documents\.py::test_code_runs": pages,
    r"plugins/test_isolation\.py::test_a_command": commands,
}
"""By what a test's id begins with: whether the main suite runs it, too."""


def mark(items: list[pytest.Item]) -> set[str]:
    """Mark the tests that are for the sweep alone; the keys of :data:`STAYS` that some test was left out by."""
    used = set()
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        rule = next((rule for rule in STAYS if re.match(rule, name)), None)
        parameters = getattr(getattr(item, "callspec", None), "params", None)
        if rule is None or parameters is None or item.get_closest_marker("sweep"):
            continue
        adapter = getattr(getattr(item, "cls", None), "adapter", None)
        given = {**parameters, "test": item.name, "class": name.split("::")[1], "adapter": adapter}
        if not STAYS[rule](given):
            item.add_marker("sweep")
            used.add(rule)
    return used
