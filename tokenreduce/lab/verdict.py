"""Verdicts: how every row stands to the baseline and to its control, in numbers and in one honest line."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..errors import OptionError
from .result import Comparison, Row
from .statistics import compare_paired, holm, interval

ALPHA = 0.05
NEAR = 0.05  # share of a row's multiply-adds that its control may be off by

Finding = tuple[Comparison | None, str]


def compare_rows(rows: Sequence[Row], baseline: str) -> None:
    """Fill in each row's ``interval``, ``versus_baseline``, ``versus_control`` and ``verdict``.

    Every row with a result is compared with the baseline, and those p-values are adjusted together (Holm). A method
    is compared with the controls at equal cost, of each kind (random drop, average pooling) with the one nearest in
    multiply-adds, chosen before any score is looked at (:func:`against`). It has to beat them all: its verdict is the
    comparison with the best of them, at 5 % by its p as it is, not adjusted. It answers "does this method beat its
    controls?", not "does any of these?". Of forty methods that are exactly as good as their one control, about one
    will be said to beat it.

    Fine-tuned rows are compared with fine-tuned controls, and the others with the others; where a fine-tuned row has
    no such control, the sentence says so. A control at a smaller input size answers a question of its own, and has a
    sentence of its own after the first.

    Raises:
        OptionError: no row is called ``baseline``.
    """
    if baseline not in [row.name for row in rows]:
        raise OptionError(f"no row is the baseline {baseline!r}; there is {', '.join(row.name for row in rows)}")
    done = [row for row in rows if row.failed is None and row.scores]
    for row in rows:
        row.interval = row.versus_baseline = row.versus_control = None
        row.verdict = ""
    for row in done:
        row.interval = interval(row.scores)
    _compare_with_baseline(done, baseline)
    for row in done:
        if row.role == "method":
            row.versus_control, row.verdict = _verdict(row, rows)


def against(row: Row, controls: Sequence[Row], kind: str = "") -> Finding:
    """How a row stands to controls of one kind: the comparison, if there is a fair one, and a sentence.

    At equal cost: of each reducer among the controls the row nearest in multiply-adds, within 5 % of the row's; of
    these the most accurate. Where there is none, a control can still settle it: one that needs no more multiply-adds
    and is at least as accurate (the most accurate of those), or one that needs at least as many and is beaten all the
    same (the nearest of those).

    Args:
        kind: what the controls do, for the sentence that says that there is no fair one.
    """
    if row.macs is None:
        return None, f"not comparable{kind}: its multiply-adds are not known"
    macs = row.macs
    fair = [
        (control.macs, control)
        for control in controls
        if control.failed is None and control.macs is not None and len(control.scores) == len(row.scores)
    ]
    if not fair:
        return None, f"not comparable{kind}: no control has a result on the same samples"
    equal = sorted((pair for pair in fair if abs(pair[0] - macs) <= NEAR * macs), key=lambda pair: abs(pair[0] - macs))
    nearest: dict[str, tuple[int, Row]] = {}
    for cost, control in equal:
        nearest.setdefault(str(control.reducer), (cost, control))
    if nearest:
        compared = [(compare_paired(one.name, row.scores, one.scores), cost) for cost, one in nearest.values()]
        found, cost = min(compared, key=lambda pair: pair[0].difference)
        others = f", the best of {len(compared)} controls" if len(compared) > 1 else ""
        return found, f"{standing(found)} at equal multiply-adds{_remark(macs, cost)}{others}"

    cheaper = [(fmean(control.scores), -cost, control) for cost, control in fair if cost < macs]
    if cheaper:
        _, negative, control = max(cheaper, key=lambda found: found[:2])
        found = compare_paired(control.name, row.scores, control.scores)
        if found.difference <= 0:
            return found, f"does not beat {_numbers(found)} with {_percent(macs, -negative)} multiply-adds"
    dearer = [(cost, control) for cost, control in fair if cost > macs]
    if dearer:
        cost, control = min(dearer, key=lambda pair: pair[0])
        found = compare_paired(control.name, row.scores, control.scores)
        if found.difference > 0 and found.p < ALPHA:
            return found, f"beats {_numbers(found)} with {_percent(macs, cost)} multiply-adds"
    return None, f"not comparable{kind}: no control within 5 % of its multiply-adds; use --match-macs"


def break_even_line(row: Row) -> str:
    """From which input size on the row pays, in words; "" where that was not measured."""
    found = row.break_even
    if found is None or not found.tried:
        return ""
    if found.tokens is None:
        count, speedup, _ = found.tried[-1]
        return f"does not pay up to {count} image tokens (batch {found.batch}; {speedup:.2f}x there)"
    fewer = [(count, speedup) for count, speedup, _ in found.tried if count < found.tokens]
    if not fewer:
        return f"pays from {found.tokens} image tokens on, the fewest that were tried (batch {found.batch})"
    return f"pays from {found.tokens} image tokens on (batch {found.batch}; {fewer[-1][1]:.2f}x at {fewer[-1][0]})"


def _compare_with_baseline(rows: Sequence[Row], baseline: str) -> None:
    base = next((row for row in rows if row.name == baseline), None)
    if base is None:
        return
    others = [row for row in rows if row is not base and len(row.scores) == len(base.scores)]
    found = [compare_paired(baseline, row.scores, base.scores) for row in others]
    for row, comparison, p in zip(others, found, holm([comparison.p for comparison in found]), strict=True):
        comparison.p_adjusted = p
        row.versus_baseline = comparison


def _verdict(row: Row, rows: Sequence[Row]) -> Finding:
    controls = [other for other in rows if other.role == "control"]
    if not controls:
        return None, "not comparable: there is no control among the rows"
    same = [control for control in controls if control.input_size is None]
    smaller = [control for control in controls if control.input_size is not None]
    alike = [control for control in same if bool(control.weights) == bool(row.weights)]
    uneven = f"; {row.name} is fine-tuned, the control is not" if row.weights else ""
    findings = []
    if alike or same:
        found, sentence = against(row, alike or same)
        findings.append((found, sentence + (uneven if found is not None and not alike else "")))
    if smaller:
        found, sentence = against(row, smaller, " with a smaller input")
        findings.append((found, sentence + (uneven if found is not None else "")))
    sentences = [sentence for _, sentence in findings]
    found = next((comparison for comparison, _ in findings if comparison is not None), None)
    return found, ". ".join([sentences[0], *(s[0].upper() + s[1:] for s in sentences[1:])])


def standing(found: Comparison) -> str:
    """A paired comparison with a control in a sentence, at 5 % by its p as it is."""
    if found.p >= ALPHA:
        return f"no better than {found.against} within noise: {_points(found)}"
    return f"{'beats' if found.difference > 0 else 'does not beat'} {_numbers(found)}"


def _numbers(found: Comparison) -> str:
    return f"{found.against}: {_points(found)}"


def _points(found: Comparison) -> str:
    """``"+3.2 points (p = 0.004)"``."""
    points = round(100 * found.difference, 1) + 0.0  # never -0.0
    if found.p < 0.001:
        return f"{points:+.1f} points (p < 0.001)"
    return f"{points:+.1f} points (p = {found.p:.{3 if found.p < 0.1 else 2}f})"


def _remark(macs: int, other: int) -> str:
    """By how much it is not quite equal, from 1 % on."""
    return "" if abs(macs - other) < 0.01 * other else f" ({_percent(macs, other)})"


def _percent(macs: int, other: int) -> str:
    share = abs(macs - other) / other if other else float("inf")
    return f"{100 * share:.0f} % {'more' if macs > other else 'fewer'}"
