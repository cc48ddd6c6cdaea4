"""VQA accuracy: answers in words, and how far they agree with what people said. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

SENTENCE = frozenset(';[]"{}(),?!')
SYMBOLS = frozenset("/=+\\_-><@`")
ARTICLES = frozenset(("a", "an", "the"))
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(DIGITS)}}
SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def normalize_answer(answer: str, symbols: bool = True) -> str:
    """An answer for comparison, as the VQA evaluation processes it.

    Lower case; punctuation is replaced by a space, or left out where it stands beside one or the answer has a comma
    between digits; periods go unless a digit follows; number words become digits, articles go, and contractions get
    their apostrophe. All other signs stay. Before that the text is put into Unicode's composed form (NFC), and an
    answer of which nothing would be left ("a", "+") stays as it is.

    Args:
        symbols: whether signs that can be an answer (``/ = + - _ < > @`` and kin) count as punctuation; without, only
            those of a sentence do.

    Source: the processing of answers at https://visualqa.org/evaluation.html (Antol et al., VQA, ICCV 2015).
    """
    text = _plain(answer)
    marks = SENTENCE | SYMBOLS if symbols else SENTENCE
    spaced, numbers = text, re.search(r"\d,\d", text) is not None
    for mark in marks & set(text):
        beside = f"{mark} " in text or f" {mark}" in text
        spaced = spaced.replace(mark, "" if beside or numbers else " ")
    words = [NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", spaced).lower().split()]
    kept = [CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES]
    return " ".join(kept or words or text.lower().split())


def vqa_accuracy(answer: str, votes: Sequence[str]) -> float:
    """VQA accuracy, 0 to 1: how far an answer agrees with what people said.

    The official form: each person is left out in turn, an answer that three of the others gave counts full, and
    the results are averaged; 1, 2, 3 votes of ten are worth 0.3, 0.6, 0.9. Where fewer than three others are left,
    all of them must agree; one vote is an exact match.

    Answers are compared after :func:`normalize_answer`. Where all people said the same, the official evaluation
    compares texts as they are; here case, articles, number words and the punctuation of a sentence are forgiven then
    too, but no symbol is: "-5" is not "5" and "c++" is not "c".

    Source: Antol et al., VQA, ICCV 2015, section 5, and its evaluation code.
    """
    symbols = len({_plain(vote) for vote in votes}) > 1
    wanted = normalize_answer(answer, symbols)
    same = sum(normalize_answer(vote, symbols) == wanted for vote in votes)
    if len(votes) == 1:
        return float(same)
    full = min(3, len(votes) - 1)
    kept, dropped = min(1.0, same / full), min(1.0, (same - 1) / full)
    return ((len(votes) - same) * kept + same * dropped) / len(votes)


def _plain(text: str) -> str:
    """Composed, tabs and new lines as spaces, none at the ends."""
    return unicodedata.normalize("NFC", text).replace("\n", " ").replace("\t", " ").strip()


def _without_one(word: str) -> Iterator[str]:
    """The word with each one of its apostrophes left out."""
    return (word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'")


CONTRACTIONS = {short: word for word in SHORTENED.split() for short in _without_one(word)}
