"""What an ablation found: plain data that goes to JSON and comes back."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any


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
    difference: float
    low: float
    high: float
    p: float
    test: str
    p_adjusted: float | None = None


@dataclass
class BatchTiming:
    """Time of one batch size, round by round, beside the baseline's in the same round.

    Attributes:
        batch: samples in the batch.
        seconds, base_seconds: one time per round.
    """

    batch: int
    seconds: list[float]
    base_seconds: list[float]

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

    batch: int
    tried: list[tuple[int, float, float]]
    tokens: int | None = None


@dataclass
class SiteTokens:
    """Tokens of one stream before and after one site."""

    stack: str
    layer: int
    stream: str
    tokens_in: int
    tokens_out: int


@dataclass
class Picture:
    """One sample under one row, for the eye.

    Attributes:
        row: name of the row.
        text, expected: question and right answer in words, "" where there are none.
        before, after: the model's answer under the baseline and under the row.
        image: the picture as PNG in base64.
        grid: rows and columns of patches.
        owner: for each patch in raster order the final token that it is part of, -1 where it was dropped.
    """

    row: str
    text: str
    expected: str
    before: str
    after: str
    image: str
    grid: tuple[int, int]
    owner: list[int]


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
        tokens: tokens left at the end of the (first) stack, ``tokens_by_stream`` the same apart.
        sites: tokens site by site.
        macs: multiply-adds per sample, the reducer's own included; ``macs_share`` of the baseline's.
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
    ratio: float | None = None
    target_macs: float | None = None
    weights: str = ""
    input_size: tuple[int, int] | None = None
    seeds: list[int] = field(default_factory=list)
    accuracy: float | None = None
    accuracy_by_seed: list[float] = field(default_factory=list)
    interval: tuple[float, float] | None = None
    groups: dict[str, float] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    tokens: int | None = None
    tokens_by_stream: dict[str, int] = field(default_factory=dict)
    sites: list[SiteTokens] = field(default_factory=list)
    macs: int | None = None
    macs_share: float | None = None
    paces: list[BatchTiming] = field(default_factory=list)
    memory_batch: int | None = None
    peak_memory_bytes: int | None = None
    training_memory_bytes: int | None = None
    overhead: float | None = None
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
    def from_json(cls, document: dict[str, Any]) -> Result:
        """What :meth:`to_json` gave.

        Raises:
            OptionError: the document is something else.
        """
        from ..errors import OptionError

        try:
            rows = [_row(row) for row in document["rows"]]
            pictures = [Picture(**{**p, "grid": tuple(p["grid"])}) for p in document["pictures"]]
            return cls(rows, dict(document["setup"]), pictures)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise OptionError(
                "not the JSON of an ablation (tokenreduce ablate --json FILE writes one): "
                f"{type(error).__name__}: {error}"
            ) from error


def _row(data: dict[str, Any]) -> Row:
    made = dict(data)
    names = {f.name for f in dataclasses.fields(Row)}
    unknown = set(made) - names
    if unknown:
        raise TypeError(f"a row has no {', '.join(sorted(unknown))}")
    for key in ("interval", "input_size"):
        made[key] = tuple(made[key]) if made.get(key) is not None else None
    made["paces"] = [BatchTiming(**pace) for pace in made.get("paces", [])]
    if any(len(pace.seconds) != len(pace.base_seconds) or not pace.seconds for pace in made["paces"]):
        raise ValueError("a pace needs as many times of the row as of the baseline, and at least one")
    for key in ("accuracy", "macs", "macs_share", "overhead"):
        if not isinstance(made.get(key), (int, float, type(None))):
            raise TypeError(f"{key} is a number or null, got {made[key]!r}")
    made["sites"] = [SiteTokens(**site) for site in made.get("sites", [])]
    if made.get("break_even") is not None:
        tried = [(int(n), float(r), float(s)) for n, r, s in made["break_even"]["tried"]]
        made["break_even"] = BreakEven(**{**made["break_even"], "tried": tried})
    for key in ("versus_baseline", "versus_control"):
        made[key] = Comparison(**made[key]) if made.get(key) is not None else None
    return Row(**made)


def _half_range(values: list[float]) -> float:
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return (quartiles[2] - quartiles[0]) / 2
