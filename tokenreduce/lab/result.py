"""What an ablation found: plain data that goes to JSON and comes back."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from .._documents import check_document
from ..errors import OptionError

Number = Annotated[float, Ge(-1e300), Le(1e300)]
Seconds = Annotated[float, Gt(0), Le(1e9)]
Whole = Annotated[int, Ge(-(2**62)), Le(2**62)]
Count = Annotated[int, Ge(0), Le(2**62)]


@dataclass
class Comparison:
    """A row's accuracy against another row's on the same samples.

    Attributes:
        against: name of the other row.
        difference: mean of this row's scores minus the other's, -1 to 1; ``low`` and ``high`` bound it at 95 %.
        p: two-sided p-value of the paired ``test``; ``p_adjusted`` by Holm over the rows of the ablation.
        test: name of the test.
    """

    against: str
    difference: Number
    low: Number
    high: Number
    p: Number
    test: str
    p_adjusted: Number | None = None


@dataclass
class BatchTiming:
    """Time of one batch size, round by round, beside the baseline's in the same round.

    Attributes:
        batch: samples in the batch.
        seconds, base_seconds: one time per round.
    """

    batch: Annotated[int, Ge(1), Le(2**62)]
    seconds: list[Seconds]
    base_seconds: list[Seconds]

    @property
    def median(self) -> float:
        """Seconds of a batch, median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def throughput(self) -> float:
        """Samples per second."""
        return self.batch / self.median

    @property
    def speedup(self) -> float:
        """Median over the rounds of the baseline's time divided by this row's."""
        return statistics.median(self._ratios())

    @property
    def spread(self) -> float:
        """Half the range between the quartiles of the ratios that :attr:`speedup` is the median of."""
        return _half_range(self._ratios())

    @property
    def seconds_spread(self) -> float:
        """The same of the seconds."""
        return _half_range(self.seconds)

    def _ratios(self) -> list[float]:
        return [base / own for base, own in zip(self.base_seconds, self.seconds, strict=True)]


@dataclass
class BreakEven:
    """Speed-up at other input sizes.

    Attributes:
        batch: samples in the timed batch.
        tried: by rising token count: image tokens at the start, speed-up over the baseline, its spread.
        tokens: the least token count from which on it is faster than the baseline at every larger count that was
            tried (by more than the spread); None where there is none.
    """

    batch: Whole
    tried: list[tuple[Whole, Number, Number]]
    tokens: Whole | None = None


@dataclass
class SiteTokens:
    """Tokens of one stream before and after one site."""

    stack: str
    layer: Whole
    stream: str
    tokens_in: Count
    tokens_out: Count


@dataclass
class Picture:
    """One sample under one row, for the eye.

    Attributes:
        row: name of the row.
        text, expected: question and right answer in words, "" where there are none.
        before, after: the model's answer under the baseline and under the row.
        image: the picture as PNG in base64.
        grid: rows and columns of patches.
        owner: for each patch in raster order the final token that it is part of, -1 where it was dropped,
            -2 where there is no patch (between the tiles of a picture).
    """

    row: str
    text: str
    expected: str
    before: str
    after: str
    image: str
    grid: tuple[Count, Count]
    owner: list[Whole]


@dataclass
class Row:
    """One reducer's result.

    Attributes:
        name: label of the row, unique in the result.
        reducer: a name, or a mapping of stacks; ``options`` in force, ``"layers"`` among them.
        variant: name that the user gave, shared by the rows of one variant at several levels.
        role: ``"baseline"``, ``"control"`` or ``"method"``.
        ratio: share of image tokens that was asked to be gone at the end, ``target_macs`` the share of multiply-adds
            that was asked to remain; None where the options were given as they are.
        weights: folder of fine-tuned weights that stand in for the model's, "" for none.
        input_size: height and width of the pictures in pixels where they were made smaller, else None.
        seeds: one run of the samples for each.
        accuracy: mean score, 0 to 1, with a 95 % confidence ``interval``; ``accuracy_by_seed`` one by one.
        groups: mean score per group of samples.
        scores: per sample, mean over the seeds.
        data: fingerprint of the samples, where the rows of a result have samples of their own; else "".
        tokens: tokens left at the end of the (first) stack, ``tokens_by_stream`` the same apart.
        sites: tokens site by site.
        macs: multiply-adds per sample, the reducer's own included; ``macs_share`` of the baseline's.
        tokens_spread, macs_spread: standard deviations over the samples where they keep different numbers of tokens, so
            that ``tokens`` and ``macs`` are means; else None.
        paces: time at several batch sizes.
        peak_memory_bytes: peak activation memory of one batch (of ``memory_batch`` samples) in inference;
            ``training_memory_bytes`` the same with what a backward pass needs kept.
        overhead: share of the time of a forward pass that goes into the reduction itself.
        break_even: from which token count on it pays.
        versus_baseline, versus_control: paired comparisons; ``verdict`` says in words how it stands to the control.
        notes: remarks of the reducer about this backbone.
        failed: why there is no result, else None.
    """

    name: str
    reducer: Any = ""
    options: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    role: str = "method"
    ratio: Number | None = None
    target_macs: Number | None = None
    weights: str = ""
    input_size: tuple[Count, Count] | None = None
    seeds: list[int] = field(default_factory=list)
    accuracy: Number | None = None
    accuracy_by_seed: list[Number] = field(default_factory=list)
    interval: tuple[Number, Number] | None = None
    groups: dict[str, Number] = field(default_factory=dict)
    scores: list[Number] = field(default_factory=list)
    data: str = ""
    tokens: Count | None = None
    tokens_by_stream: dict[str, Count] = field(default_factory=dict)
    sites: list[SiteTokens] = field(default_factory=list)
    macs: Count | None = None
    macs_share: Number | None = None
    tokens_spread: Number | None = None
    macs_spread: Number | None = None
    paces: list[BatchTiming] = field(default_factory=list)
    memory_batch: Count | None = None
    peak_memory_bytes: Count | None = None
    training_memory_bytes: Count | None = None
    overhead: Number | None = None
    break_even: BreakEven | None = None
    versus_baseline: Comparison | None = None
    versus_control: Comparison | None = None
    verdict: str = ""
    notes: list[str] = field(default_factory=list)
    failed: str | None = None

    def pace(self, batch: int | None = None) -> BatchTiming | None:
        """The pace at a batch size, by default at the largest; None where it was not timed."""
        if batch is None:
            return max(self.paces, key=lambda pace: pace.batch, default=None)
        return next((pace for pace in self.paces if pace.batch == batch), None)


@dataclass
class Result:
    """All rows of one ablation and what is needed to repeat it.

    Attributes:
        rows: the baseline, the controls, the methods.
        pictures: a few samples under a few rows.
        setup: what was asked for (``"request"``), what it was asked of (``"model"``, ``"data"``, each with a
            fingerprint), ``"baseline"``, ``"versions"``, ``"plugins"``, ``"machine"`` and ``"definitions"``.
    """

    rows: list[Row]
    setup: dict[str, Any]
    pictures: list[Picture] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every row has a result."""
        return all(row.failed is None for row in self.rows)

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there is {', '.join(row.name for row in self.rows)}")

    def to_json(self) -> dict[str, Any]:
        """JSON-able: ``{"setup": {...}, "rows": [...], "pictures": [...]}``."""
        pictures = [asdict(picture) for picture in self.pictures]
        return {"setup": self.setup, "rows": [asdict(row) for row in self.rows], "pictures": pictures}

    @classmethod
    def from_json(cls, document: Any) -> Result:
        """What :meth:`to_json` gave.

        Raises:
            OptionError: the document is something else.
        """
        try:
            found = check_document(cls, document)
            for row in found.rows:
                if any(len(pace.seconds) != len(pace.base_seconds) or not pace.seconds for pace in row.paces):
                    raise OptionError(
                        f"row {row.name!r}: a pace needs as many times of the row as of the baseline, and at least one"
                    )
            return found
        except OptionError as error:
            raise OptionError(
                f"not the JSON of an ablation (tokenreduce ablate --json FILE writes one): {error}"
            ) from error


def _half_range(values: list[float]) -> float:
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return (quartiles[2] - quartiles[0]) / 2
