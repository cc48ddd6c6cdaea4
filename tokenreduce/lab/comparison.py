"""Two ablations side by side: what changed from A to B, and what else differs between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from .result import Result, Row
from .statistics import compare_paired, compare_unpaired, interval
from .verdict import standing

Two: TypeAlias = tuple[float | None, float | None]

MISSING = object()
MEANING = {  # part of the setup -> what follows where it differs
    "model": "not known to be the same model: a change of accuracy may be the model's",
    "data": "not known to be the same samples: accuracies are compared as those of unrelated samples",
    "baseline": "speed-ups are ratios to different baselines",
    "versions": "other versions can change accuracies and times by themselves",
    "machine": "not known to be the same machine: times and speed-ups are not comparable, memory may not be either",
    "definitions": "measures that are defined differently are not comparable",
}
UNTOLD = ("cells",)  # how much was kept from an earlier run: changes nothing in what was found
KNOWN = ("model", "data", "machine")  # the same only where both say so: by a fingerprint, or all of the machine


@dataclass(frozen=True)
class Speed:
    """Speed-ups over each result's own baseline at one batch size, and their spreads."""

    batch: int
    a: float
    b: float
    a_spread: float
    b_spread: float


@dataclass(frozen=True)
class Change:
    """One row of A and the row of the same name of B.

    Attributes:
        name: of the row.
        only_in: ``"A"`` or ``"B"`` where the other result has no such row, else "".
        failed: why there is no result, in A and in B.
        accuracy, macs, tokens, peak_memory_bytes, training_memory_bytes: in A and in B, None where not known.
        difference: B's accuracy minus A's; ``low`` and ``high`` bound it at 95 %.
        p: two-sided, of a paired ``test``; None where the samples are not known to be the same. There the bounds are
            those of :func:`~tokenreduce.lab.statistics.compare_unpaired`, and a change is significant where they
            exclude 0.
        test: name of the test, or ``"unpaired intervals"``; "" where there was nothing to compare.
        speeds: by batch size, those that both were timed at.
    """

    name: str
    only_in: str = ""
    failed: tuple[str | None, str | None] = (None, None)
    accuracy: Two = (None, None)
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    test: str = ""
    macs: Two = (None, None)
    tokens: Two = (None, None)
    peak_memory_bytes: Two = (None, None)
    training_memory_bytes: Two = (None, None)
    speeds: list[Speed] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def compare(a: Result, b: Result) -> list[Change]:
    """Row by row, by name: A's rows in their order, then those that only B has."""
    rows_a, rows_b = {row.name: row for row in a.rows}, {row.name: row for row in b.rows}
    same = same_samples(a, b)
    return [_change(name, rows_a.get(name), rows_b.get(name), same) for name in {**rows_a, **rows_b}]


def against_control(b: Result, control: Result, name: str) -> dict[str, str]:
    """Of each row of B how it stands to the control's row of the same name, in a sentence.

    Args:
        control: a run with as many tokens as B has, of random drop for example; that is for the caller to say.
        name: of the control, in the sentence.
    """
    rows = {row.name: row for row in control.rows}
    same = _same(b, control, "data")
    found = {}
    for row in b.rows:
        other = rows.get(row.name)
        if other is None or not other.scores or not row.scores:
            found[row.name] = "not comparable: the control has no such row with scores"
        elif len(other.scores) != len(row.scores) or not (same or _own_samples(row, other)):
            found[row.name] = "not comparable: the control is not known to be judged on the same samples"
        else:
            found[row.name] = standing(compare_paired(name, row.scores, other.scores))
    return found


def differences(a: Result, b: Result) -> list[str]:
    """What differs in the setups and in the options of rows of one name, and what follows from it; one line each."""
    lines = []
    for part in dict.fromkeys([*MEANING, *a.setup, *b.setup]):
        if part in UNTOLD:
            continue
        mine, theirs = a.setup.get(part, MISSING), b.setup.get(part, MISSING)
        found = list(_differing(part, mine, theirs))
        lines += found
        if part in MEANING and (not _is_same(a, b, part) if part in KNOWN else found):
            lines.append(f"{part}: {MEANING[part]}")
    rows = {row.name: row for row in a.rows}
    for row in b.rows:
        if row.name in rows:
            lines += _differing(f"row {row.name}", _asked(rows[row.name]), _asked(row))
    return lines


def same_samples(a: Result, b: Result) -> bool:
    """Whether both say that they were judged on the same samples: the results, or all rows that both have."""
    theirs = {row.name: row for row in b.rows}
    pairs = [(row, theirs[row.name]) for row in a.rows if row.name in theirs]
    return _same(a, b, "data") or bool(pairs and all(_own_samples(*pair) for pair in pairs))


def _is_same(a: Result, b: Result, part: str) -> bool:
    return same_samples(a, b) if part == "data" else _same(a, b, part)


def same_machine(a: Result, b: Result) -> bool:
    """Whether both say that they ran on the same machine, so that their times can be compared."""
    return _same(a, b, "machine")


def _own_samples(a: Row, b: Row) -> bool:
    return bool(a.data) and a.data == b.data


def _same(a: Result, b: Result, part: str) -> bool:
    known = [result.setup.get(part) for result in (a, b)]
    if part != "machine":
        known = [value.get("fingerprint") if isinstance(value, dict) else None for value in known]
    return bool(known[0]) and known[0] == known[1]


def _change(name: str, a: Row | None, b: Row | None, same: bool) -> Change:
    def two(attribute: str) -> Any:
        return tuple(None if row is None else getattr(row, attribute) for row in (a, b))

    difference, low, high, p, test = _accuracy_change(a, b, same) if a and b else (None, None, None, None, "")
    return Change(
        name,
        only_in="B" if a is None else "A" if b is None else "",
        failed=two("failed"),
        accuracy=two("accuracy"),
        difference=difference,
        low=low,
        high=high,
        p=p,
        test=test,
        macs=two("macs"),
        tokens=two("tokens"),
        peak_memory_bytes=two("peak_memory_bytes"),
        training_memory_bytes=two("training_memory_bytes"),
        speeds=_speeds(a, b) if a and b else [],
    )


def _accuracy_change(a: Row, b: Row, same: bool) -> tuple[float | None, float | None, float | None, float | None, str]:
    if (same or _own_samples(a, b)) and a.scores and len(a.scores) == len(b.scores):
        found = compare_paired("A", b.scores, a.scores)
        return found.difference, found.low, found.high, found.p, found.test
    if a.accuracy is None or b.accuracy is None:
        return None, None, None, None, ""
    known = [row.interval or (interval(row.scores) if row.scores else None) for row in (a, b)]
    if known[0] is None or known[1] is None:
        return b.accuracy - a.accuracy, None, None, None, ""
    low, high = compare_unpaired(b.accuracy, known[1], a.accuracy, known[0])
    return b.accuracy - a.accuracy, low, high, None, "unpaired intervals"


def _speeds(a: Row, b: Row) -> list[Speed]:
    paces = {pace.batch: pace for pace in a.paces}
    return [
        Speed(own.batch, paces[own.batch].speedup, own.speedup, paces[own.batch].spread, own.spread)
        for own in sorted(b.paces, key=lambda pace: pace.batch)
        if own.batch in paces
    ]


def _asked(row: Row) -> dict[str, Any]:
    names = ("reducer", "options", "role", "ratio", "target_macs", "input_size", "seeds")
    return {name: getattr(row, name) for name in names}


def _differing(path: str, a: Any, b: Any) -> Iterator[str]:
    """Lines ``"path: A's value in A, B's value in B"`` for the leaves of nested mappings that are not equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _differing(f"{path}, {key}", a.get(key, MISSING), b.get(key, MISSING))
    elif a is not b and a != b:
        yield f"{path}: {_said(a)} in A, {_said(b)} in B"


def _said(value: Any) -> str:
    return "nothing" if value is MISSING else str(value)
