"""What vLLM answers with fewer image tokens is what transformers answers under the same reduction."""

from __future__ import annotations

from typing import Any

import pytest
from engine import QUESTIONS, Answer, Oracle, ask, engine, pictures
from tiny_models import MODELS

SQUARE = ((112, 112), (112, 112), (112, 112))
SIZES = {"llava": SQUARE}
OTHERS = ((112, 56), (60, 110), (100, 104))
"""Width and height of three pictures: one row of tiles, one column, two by two."""
CASES: list[tuple[str, Any]] = [
    ("llava", None),
    ("llava", {"reducer": "divprune", "keep": 8}),
    ("llava", {"reducer": "visionzip", "keep": 12}),
    ("llava", {"reducer": "vispruner", "keep": 0.25}),
    ("llava", {"reducer": "fopru", "keep": 9, "scores": "softmax"}),
    ("llava", {"reducer": "evit", "keep": 0.3}),
    ("llava", {"vision": {"reducer": "tome", "r": 9}}),
    (
        "llava",
        {"vision": {"reducer": "evit", "keep": 0.6, "layers": [1]}, "handover": {"reducer": "divprune", "keep": 6}},
    ),
    ("llava_next", {"reducer": "divprune", "keep": 12}),
    ("llava_next", {"reducer": "visionzip", "keep": 12}),
    ("llava_next", {"reducer": "fopru", "keep": 0.25}),
    ("llava_next", {"vision": {"reducer": "tome", "r": 2}}),
    ("llava_onevision", {"reducer": "scope", "keep": 12}),
    ("llava_onevision", {"reducer": "fopru", "keep": 0.25}),
    ("llava_onevision", {"vision": {"reducer": "tome", "r": 2}, "handover": {"reducer": "divprune", "keep": 9}}),
    ("internvl", {"reducer": "divprune", "keep": 6}),
    ("internvl", {"reducer": "pooling", "keep": 4}),
]


def prompt(model: str, question: str, images: int) -> str:
    marks = {"internvl": "<IMG_CONTEXT>"}
    mark = marks.get(model, "<image>")
    return f"USER: {mark * images}\n{question} ASSISTANT:"


def check(found: Answer, wanted: Answer, what: Any) -> None:
    assert found.tokens == wanted.tokens, what
    assert found.prompt == wanted.prompt, what
    assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4), what


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(model):
        if model not in made:
            made[model] = MODELS[model](tmp_path_factory.mktemp(model))
        return made[model]

    return folder


@pytest.mark.parametrize(("model", "settings"), CASES, ids=str)
def test_tokens_and_logprobs_are_those_of_transformers(folders, model, settings):
    """One batch of several pictures, two pictures in one prompt, none; and a second question about a picture."""
    folder, oracle = folders(model), None
    one, two, three = pictures(SIZES.get(model, OTHERS))
    first, second = QUESTIONS
    requests = [(first, [one]), (second, [two]), (first, [two, three]), (second, [])]
    later = [(second, [one]), (first, [one]), (first, [three])]
    asked = [(prompt(model, question, len(images)), images) for question, images in requests + later]
    with engine(folder, settings) as llm:
        answers = ask(llm, asked[: len(requests)]) + ask(llm, asked[len(requests) :])
    oracle = Oracle(folder, settings)
    for (text, images), answer in zip(asked, answers, strict=True):
        check(answer, oracle.answer(text, images), (text, len(images)))
    assert answers[0] != answers[1]  # two pictures, two answers


def test_a_second_question_finds_the_picture_in_the_prefix_cache(folders):
    """Its blocks hold the tokens that are left; another picture behind the same words does not find them."""
    folder, settings = folders("llava"), {"reducer": "divprune", "keep": 48}
    one, other = pictures(SQUARE[:2])
    first, second = (prompt("llava", question, 1) for question in QUESTIONS)
    with engine(folder, settings, block_size=32) as llm:
        asked = [ask(llm, [request])[0] for request in [(first, [one]), (second, [one]), (first, [other])]]
    assert [answer.cached for answer in asked] == [0, 32, 0]
    oracle = Oracle(folder, settings)
    check(asked[1], oracle.answer(second, [one]), "out of the cache")
    check(asked[2], oracle.answer(first, [other]), "another picture")
