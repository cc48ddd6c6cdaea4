"""What scores can say: intervals, paired tests, and the correction for many of them. Pure functions of numbers.

All intervals are at 95 %. Whatever draws numbers starts from one fixed seed, so equal scores give equal results.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, PluginError
from .result import Comparison

LEVEL = 0.95
RESAMPLES = 9_999
SEED = 0
SAME = 1e-12  # scores are means of a few numbers: what differs by less is rounding

Vector: TypeAlias = NDArray[np.float64]


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """Confidence interval of the mean score.

    Wilson's where every score is 0 or 1, else the percentile bootstrap. Scores that are all the same have nothing to
    resample; see :func:`_of_equals`, which is Wilson's interval when they are all 0 or all 1.

    Raises:
        OptionError: no scores, or scores that are not numbers.
    """
    values = _vector(scores)
    if _binary(values):
        test = _scipy_stats().binomtest(int(values.sum()), len(values))
        low, high = test.proportion_ci(confidence_level=LEVEL, method="wilson")
    elif np.ptp(values) <= SAME:
        low, high = _of_equals(float(values[0]), len(values), 0.0, 1.0)
    else:
        low, high = _bootstrap(values)
    return _around(float(values.mean()), low, high)


def compare_paired(name: str, own: Sequence[float], other: Sequence[float]) -> Comparison:
    """The mean of ``own`` minus the mean of ``other``, scores of the same samples in the same order.

    The interval is the percentile bootstrap of the differences sample by sample. The two-sided p is McNemar's, exact,
    where every score is 0 or 1; else that of a permutation test that flips the signs of the differences (every
    combination of signs where there are few, about 10 000 random ones otherwise). It is 1 where no sample differs.

    Args:
        name: of the row that ``other`` belongs to.

    Raises:
        OptionError: the scores are not of the same samples: their numbers differ.
    """
    mine, theirs = _vector(own), _vector(other)
    if len(mine) != len(theirs):
        raise OptionError(
            f"a paired test against {name!r} needs scores of the same samples, got {len(mine)} and {len(theirs)}; "
            "run both on the same samples, or compare their intervals with compare_unpaired()"
        )
    differences = mine - theirs
    mean = float(differences.mean())
    if np.ptp(differences) <= SAME:
        low, high = _of_equals(mean, len(differences), -1.0, 1.0)
    else:
        low, high = _bootstrap(differences)
    if _binary(mine) and _binary(theirs):
        p, test = _mcnemar(differences), "exact McNemar"
    else:
        p, test = _sign_flip(differences), "sign-flip permutation"
    return Comparison(name, mean, *_around(mean, low, high), p, test)


def compare_unpaired(
    own: float, own_interval: tuple[float, float], other: float, other_interval: tuple[float, float]
) -> tuple[float, float]:
    """Confidence interval of ``own - other``, two means over samples that have nothing to do with each other.

    Source: Newcombe, Statistics in Medicine 17 (1998), method 10, which squares and adds the margins of two Wilson
    intervals. Zou & Donner, Statistics in Medicine 27 (2008), show that the same is right for other intervals.
    """
    difference = own - other
    down = math.hypot(own - own_interval[0], other_interval[1] - other)
    up = math.hypot(own_interval[1] - own, other - other_interval[0])
    return difference - down, difference + up


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm, 1979), in the order given.

    Rejecting where the adjusted p is below 5 % keeps the chance of even one false rejection below 5 %.
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


def mean_over_seeds(scores_by_seed: Sequence[Sequence[float]]) -> list[float]:
    """Per sample, the mean over the seeds.

    Raises:
        OptionError: no seeds, or not every seed has the same number of scores.
    """
    lengths = sorted({len(scores) for scores in scores_by_seed})
    if len(lengths) != 1:
        raise OptionError(
            f"expected one list of scores per seed, all of one length, got {len(scores_by_seed)} of lengths {lengths}"
        )
    return [statistics.fmean(scores) for scores in zip(*scores_by_seed, strict=True)]


def deviation_over_seeds(scores_by_seed: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of the accuracy over the seeds; None where there is only one seed.

    Intervals and tests here are about samples: they do not contain this.
    """
    accuracies = [statistics.fmean(scores) for scores in scores_by_seed]
    return statistics.stdev(accuracies) if len(accuracies) > 1 else None


def _mcnemar(differences: Vector) -> float:
    """Are wins and losses equally likely? Samples without a winner say nothing about it."""
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return float(_scipy_stats().binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _sign_flip(differences: Vector) -> float:
    """Is the sum as likely with any other signs? Zeros add nothing to any of the sums, so they are left out."""
    some = differences[np.abs(differences) > SAME]
    if len(some) < 2:
        return 1.0  # two equally likely sums, and one of them is what came
    result = _scipy_stats().permutation_test(
        (some,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(some),
        rng=SEED,
    )
    return float(result.pvalue)


def _bootstrap(values: Vector) -> tuple[float, float]:
    result = _scipy_stats().bootstrap(
        (values,),
        np.mean,
        vectorized=True,
        method="percentile",
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        batch=_batch(values),
        rng=SEED,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _of_equals(value: float, count: int, least: float, most: float) -> tuple[float, float]:
    """Interval of a mean where all of ``count`` samples gave the same value.

    By Wilson's bound for 0 out of ``count``, samples that give another value are at most a share u of all; they could
    pull the mean towards the ``least`` or the ``most`` that a sample can give.
    """
    square = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    share = square / (count + square)
    return value - share * max(0.0, value - least), value + share * max(0.0, most - value)


def _around(mean: float, low: float, high: float) -> tuple[float, float]:
    """The interval with its mean inside, which rounding may have moved out."""
    return min(float(low), mean), max(float(high), mean)


def _vector(scores: Sequence[float]) -> Vector:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise OptionError(
            f"expected one finite score for each of one or more samples, got shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} that are not finite; see the metric of the task"
        )
    return values


def _binary(values: Vector) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _batch(values: Vector) -> int:
    """Resamples at once: about 8 MB of them."""
    return max(1, 2**20 // len(values))


def _scipy_stats() -> Any:
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise PluginError(
            "intervals and tests need scipy, which is not installed: pip install 'tokenreduce[lab]'"
        ) from error
