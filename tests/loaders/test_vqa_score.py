"""VQA accuracy against the published rules, worked out a second time here, on any text."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.tasks.scoring import normalize_answer, vqa_accuracy


@pytest.mark.parametrize(("same", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_ten_votes_are_worth_what_the_vqa_evaluation_says(same, score):
    assert vqa_accuracy("Yes.", ["yes"] * same + ["no"] * (10 - same)) == pytest.approx(score)


def test_fewer_votes():
    assert vqa_accuracy("a cat", ["cat"]) == 1 and vqa_accuracy("cat", ["dog"]) == 0
    assert vqa_accuracy("cat", ["cat", "cat"]) == 1 and vqa_accuracy("cat", ["cat", "dog"]) == 0.5
    assert vqa_accuracy("cat", ["cat"] * 3) == 1


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *[("The  Cat!", "cat"), ("two", "2"), ("don't", "don't"), ("dont", "don't"), ("couldnt've", "couldn't've")],
        *[("3.5", "3.5"), (".5", ".5"), ("3.", "3"), ("U.S.", "us"), ("1,000.", "1000"), ("yes, no", "yes no")],
        *[("yes,no", "yes no"), ("2:50 pm", "2:50 pm"), ("50%", "50%"), ("$5", "$5"), ("girl's", "girl's")],
        *[("a", "a"), ("The", "the"), ("+", "+"), ("?!", "?!"), ("", ""), ("none", "0"), ("a/b", "b"), ("x/y", "x y")],
        *[("cafe\u0301", "caf\u00e9"), ("\u0915\u093f", "\u0915\u093f"), ("\n The\tend ", "end")],
    ],
)
def test_plain_answers(said, meant):
    assert normalize_answer(said) == meant


@pytest.mark.parametrize(
    ("said", "right"),
    [
        *[("+", "-"), ("$", "€"), ("🙂", "😡"), ("50%", "50"), ("-5", "5"), ("c++", "c"), ("<", ">"), ("x=y", "x-y")],
        *[("कि", "की"), ("girls", "girl's"), ("a/b", "a b"), ("#1", "1"), ("&", "and")],
    ],
)
def test_different_answers_are_not_the_same(said, right):
    assert vqa_accuracy(said, [right]) == vqa_accuracy(said, [right] * 10) == 0
    assert vqa_accuracy(right, [right]) == vqa_accuracy(right, [right] * 10) == 1


@pytest.mark.parametrize(("said", "right"), [("U.S.", "US"), ("1,000", "1000"), ("Two.", "2"), ("dont", "don't")])
def test_the_same_answer_written_otherwise(said, right):
    assert vqa_accuracy(said, [right]) == vqa_accuracy(said, [right] * 10) == 1
    assert vqa_accuracy(said, [right] * 3 + ["else"] * 7) == pytest.approx(0.9)


PUNCTUATION = list(';/[]"{}()=+\\_-><@`,?!')
CONTRACTIONS = {
    **{"dont": "don't", "isnt": "isn't", "oclock": "o'clock", "youre": "you're", "twas": "'twas"},
    **{"couldnt've": "couldn't've", "couldn'tve": "couldn't've", "yall'd've": "y'all'd've", "ow's'at": "'ow's'at"},
}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def official(answer, votes):
    """The rules as they are published, one after the other, and the mean over the sets of nine people."""

    def process(text):
        out = []
        between_digits = any(
            letter == "," and 0 < i < len(text) - 1 and text[i - 1].isdecimal() and text[i + 1].isdecimal()
            for i, letter in enumerate(text)
        )
        for letter in text:
            if letter in PUNCTUATION:
                gone = between_digits or f"{letter} " in text or f" {letter}" in text
                out.append("" if gone else " ")
            else:
                out.append(letter)
        spaced = "".join(out)
        spaced = "".join(
            letter for i, letter in enumerate(spaced) if letter != "." or spaced[i + 1 : i + 2].isdecimal()
        )
        words = ["0" if w == "none" else w for w in spaced.lower().split()]
        words = [str(NUMBERS.index(w)) if w in NUMBERS else w for w in words]
        kept = [CONTRACTIONS.get(w, w) for w in words if w not in ("a", "an", "the")]
        return " ".join(kept or words) or " ".join(text.lower().split())  # nothing left is no answer

    def clean(text):
        return unicodedata.normalize("NFC", text).replace("\n", " ").replace("\t", " ").strip()

    answer, votes = process(clean(answer)), [process(clean(vote)) for vote in votes]
    shares = []
    for i in range(len(votes)):
        others = votes[:i] + votes[i + 1 :]
        shares.append(min(sum(vote == answer for vote in others) / 3, 1.0))
    return sum(shares) / len(shares)


PIECES = st.sampled_from(
    [
        *[
            "a",
            "the",
            "The",
            "two",
            "none",
            "yes",
            "Yes.",
            "don't",
            "dont",
            "couldnt've",
            "1,000",
            "1000",
            "3.5",
            "U.S.",
        ],
        *["\u00e9", "e\u0301", "कि", "🙂", "\u0130", "ǅ", "\u00a0", "\u2028", "٣,٣", "²", "-5", "c++"],
        *[".", ",", "?", "'", " ", "\n", "\t"],
    ]
)
TEXT = st.one_of(
    st.text(max_size=6), st.lists(PIECES, max_size=4).map("".join), st.lists(PIECES, max_size=4).map(" ".join)
)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(TEXT, min_size=2, max_size=4),
    st.lists(st.integers(0, 3), min_size=10, max_size=10),
    TEXT,
    st.integers(0, 3),
)
def test_the_score_is_the_official_one_on_any_text(known, drawn, other, which):
    votes = [known[i % len(known)] for i in drawn]
    cleaned = {unicodedata.normalize("NFC", vote).replace("\n", " ").replace("\t", " ").strip() for vote in votes}
    for answer in (other, known[which % len(known)]):
        if len(cleaned) > 1:
            assert vqa_accuracy(answer, votes) == pytest.approx(official(answer, votes))
        elif unicodedata.normalize("NFC", answer).replace("\n", " ").replace("\t", " ").strip() in cleaned:
            assert vqa_accuracy(answer, votes) == 1  # all said the same: texts are compared as they are
        else:  # or forgiven what the rules forgive, but no more
            assert vqa_accuracy(answer, votes) <= official(answer, votes)
