"""A sample's score from what an evaluation harness logs of it: a number, or a table to judge when all are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NAMED = ("score", "accuracy", "acc", "correct", "exact_match")
"""Where a table holds its score."""
ANSWERED = ("parsed_pred", "pred", "prediction")
"""Where a table without a score holds what was answered, beside ``"answer"``."""


def score_of(logged: Any) -> float | None:
    """The score of a sample under one metric; None where there is none, as of a submission to a server.

    A number, or true and false; a list of one; a table with its score; or a table with answers, judged by
    :func:`judged`.
    """
    if isinstance(logged, (bool, int, float)):
        value = float(logged)
        return value if math.isfinite(value) else None
    if isinstance(logged, Sequence) and not isinstance(logged, str):
        return score_of(logged[0]) if len(logged) == 1 else None
    if not isinstance(logged, Mapping):
        return None
    for name in NAMED:
        if isinstance(logged.get(name), (bool, int, float)):
            return score_of(logged[name])
    given = next((logged[name] for name in ANSWERED if name in logged), None)
    if given is None or "answer" not in logged:
        return None
    tries = given if isinstance(given, list) else [given]
    asked = "open" if str(logged.get("question_type", "multiple-choice")) != "multiple-choice" else "choice"
    return float(any(judged(logged["answer"], one, asked) for one in tries))


def judged(answer: Any, given: Any, asked: str = "choice") -> bool:
    """Whether an answer is right: the same choice; or, of an open question, as MMMU judges it.

    There a candidate is a number, which must be one of the right ones to two decimals, or text, in which a right
    answer must occur.

    Args:
        answer: the right one, or a list of them.
        given: a choice, or a list of candidates for an open question.

    Source: Yue et al., MMMU, CVPR 2024, the rules of its evaluation.
    """
    right = answer if isinstance(answer, list) else [answer]
    if asked == "choice":
        return given in right
    wanted = [form for one in right for form in _forms(str(one))]
    texts = [form for form in wanted if isinstance(form, str)]
    for candidate in given if isinstance(given, list) else [given]:
        if isinstance(candidate, str):
            if any(form in candidate for form in texts):
                return True
        elif candidate in wanted:
            return True
    return False


def _forms(text: str) -> list[str | float]:
    """What a right answer is compared as: a number to two decimals, or small letters, a lone one with a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
