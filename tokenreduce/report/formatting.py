"""Numbers and outside text as a person reads them. ``NONE`` stands for what is not known."""

from __future__ import annotations

import math
import re
from typing import Any

NONE = "–"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def one_line(text: Any, most: int = 0) -> str:
    """Text in one line, without what no page can hold; ``most`` letters of it, 0 for all."""
    line = " ".join(clean(str(text)).split())
    return line if not most or len(line) <= most else line[: most - 1].rstrip() + "…"


def clean(text: str) -> str:
    """Control characters and halves of surrogate pairs replaced by the sign for it."""
    return _CONTROL.sub("\ufffd", text)


def finite(value: Any) -> float | None:
    """The number, or None for None, for what is no number, and for infinite ones."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def number(value: Any, digits: int = 0, sign: bool = False) -> str:
    """``1,234.5`` or ``–``; a minus is a real one."""
    known = finite(value)
    if known is None:
        return NONE
    text = f"{known:{'+' if sign else ''},.{digits}f}"
    if not float(text.replace(",", "")):
        text = text.replace("-", "")
        text = text if not sign or text.startswith("+") else f"+{text}"
    return text.replace("-", "\N{MINUS SIGN}")


def percent(value: Any, digits: int = 1, sign: bool = False) -> str:
    """A share of 1 as ``97.8 %``."""
    known = finite(value)
    return NONE if known is None else f"{number(100 * known, digits, sign)} %"


def points(value: Any) -> str:
    """A difference of shares in points: ``+1.2``."""
    known = finite(value)
    return NONE if known is None else number(100 * known, 1, sign=True)


def size(value: Any) -> str:
    """Bytes: ``41 MiB``, ``1.3 GiB``."""
    known = finite(value)
    if known is None:
        return NONE
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if known >= unit:
            return f"{number(known / unit, 1 if known < 10 * unit else 0)} {name}"
    return f"{number(known)} B"


def macs(value: Any) -> str:
    """Multiply-adds: ``374 M``, ``8.71 G``."""
    known = finite(value)
    if known is None:
        return NONE
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if known >= unit:
            return f"{number(known / unit, 0 if known >= 100 * unit else 1 if known >= 10 * unit else 2)} {name}"
    return number(known)


def seconds(value: Any) -> str:
    """Time: ``12.3 ms``, ``1.20 s``."""
    known = finite(value)
    if known is None:
        return NONE
    if known >= 1:
        return f"{number(known, 2)} s"
    return f"{number(1000 * known, 1 if known < 0.1 else 0)} ms"


def p_value(value: Any) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    known = finite(value)
    if known is None:
        return ""
    return "p < 0.001" if known < 0.001 else f"p = {known:.3f}" if known < 0.1 else f"p = {known:.2f}"


def mark_answer(answer: str, expected: str) -> tuple[str, str]:
    """An answer and what is to be said of it: " (right)", " (wrong)", or nothing where the right one is not known."""
    if not expected or not answer:
        return answer, ""
    return answer, " (right)" if answer.strip().casefold() == expected.strip().casefold() else " (wrong)"
