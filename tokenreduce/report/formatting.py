"""Numbers and outside text as a person reads them, in the terminal, on the page and in pictures.

``NONE`` stands for what is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

NONE = "–"
# What no page can hold, what a terminal would obey, and what would turn the direction of the text around it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_MACS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def clean(text: str) -> str:
    """Control characters and halves of surrogate pairs replaced by the sign for it; line breaks stay."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: Any, most: int = 0) -> str:
    """Text in one line, cleaned; ``most`` terminal cells of it (a Chinese character takes two), 0 for all."""
    line = " ".join(clean(" ".join(str(text).split())).split())
    return line if not most or cell_len(line) <= most else set_cell_size(line, most - 1).rstrip() + "…"


def finite(value: Any) -> float | None:
    """The number, or None for None, for what is not a number, and for those beyond every float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def number(value: Any, digits: int = 0, sign: bool = False) -> str:
    """``1,234.5`` or ``–``; a minus is a real one, and there is no ``−0``."""
    known = finite(value)
    if known is None:
        return NONE
    known = round(known, digits) + 0.0
    return f"{known:{'+' if sign else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(value: Any, digits: int = 1) -> str:
    """A share of 1 as ``97.8 %``."""
    known = finite(value)
    return NONE if known is None else f"{number(100 * known, digits)} %"


def points(value: Any) -> str:
    """A difference of shares in points: ``+1.2``."""
    known = finite(value)
    return NONE if known is None else number(100 * known, 1, sign=True)


def interval(ends: Any) -> str:
    """A pair of shares in per cent: ``86.0 to 90.0``; "" where one of them is not known."""
    known = [number(100 * end, 1) for end in ends or () if finite(end) is not None]
    return " to ".join(known) if len(known) == 2 and NONE not in known else ""


def plus_minus(value: Any, spread: Any) -> str:
    """``1.83 ± 0.02``."""
    return NONE if finite(value) is None else f"{number(value, 2)} ± {number(spread, 2)}"


def mean_spread(text: str, spread: Any, words: Callable[[Any], str]) -> str:
    """A mean over samples with its standard deviation, ``46 ± 7``; the number alone where there is none."""
    return f"{text} ± {words(spread)}" if finite(spread) else text


def size(value: Any) -> str:
    """Bytes: ``41 MiB``, ``1.3 GiB``."""
    known = finite(value)
    unit, name = next(((unit, name) for unit, name in _BYTES if (known or 0) >= unit), (1, "B"))
    return NONE if known is None else f"{number(known / unit, int(unit > 1 and known < 10 * unit))} {name}"


def macs(value: Any) -> str:
    """Multiply-adds: ``374 M``, ``8.71 G``."""
    known = finite(value)
    unit, name = next(((unit, name) for unit, name in _MACS if (known or 0) >= unit), (0, ""))
    if known is None or not unit:
        return number(known)
    return f"{number(known / unit, 0 if known >= 100 * unit else 1 if known >= 10 * unit else 2)} {name}"


def seconds(value: Any) -> str:
    """Time: ``12.3 ms``, ``1.20 s``."""
    known = finite(value)
    if known is None:
        return NONE
    return f"{number(known, 2)} s" if known >= 1 else f"{number(1000 * known, 1 if known < 0.1 else 0)} ms"


def throughput(value: Any) -> str:
    """Samples per second: ``612``, ``9.4``."""
    return number(value, 0 if (finite(value) or 0) >= 100 else 1)


def p_value(value: Any, named: bool = False) -> str:
    """``0.012``, ``< 0.001``; ``named``: ``p = 0.012``, ``p < 0.001``; "" where there is none."""
    known = finite(value)
    if known is None:
        return ""
    if known < 0.001:
        return "p < 0.001" if named else "< 0.001"
    return f"{'p = ' if named else ''}{known:.{3 if known < 0.1 else 2}f}"


def mark(answer: str, expected: str) -> str:
    """ "right" or "wrong"; "" where there is no answer, or the right one is not known."""
    if not expected or not answer:
        return ""
    return "right" if answer.strip().casefold() == expected.strip().casefold() else "wrong"


def wrap_text(text: str, width: int, most: int) -> list[str]:
    """Text in lines of ``width`` terminal cells, ``most`` of them at most."""
    lines = Text(one_line(text)).wrap(Console(width=width), width, overflow="fold")
    said = [line.plain.rstrip() for line in lines if line.plain.strip()]
    return said if len(said) <= most else [*said[: most - 1], said[most - 1][:-2].rstrip() + " …"]
