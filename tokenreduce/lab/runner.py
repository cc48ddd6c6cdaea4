"""Runs reducers side by side. Knows no method and no model by name."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..attaching import attach
from ..errors import OptionError, TokenReduceError
from ..handle import Attachment
from ..measure.macs import call, count_macs
from ..measure.memory import peak_activation_bytes
from ..measure.timing import interleaved
from ..registry import default_registry
from .task import Batch

Step = Callable[[str, int, int], None]


@dataclass
class Row:
    """One reducer's result.

    Attributes:
        reducer, options: what was attached, options in force, ``layers`` among them.
        accuracy: mean score, 0 to 1; ``accuracy_change`` against the baseline row.
        groups: mean score per group of samples.
        tokens: tokens left at the end of the stack (the first one named), ``tokens_by_stream`` the same apart.
        macs: multiply-adds per sample, the reducer's own included.
        throughput: samples per second, median over rounds; ``speedup`` is the median of paired ratios
            with the baseline, ``speedup_spread`` half their interquartile range.
        peak_memory_bytes: peak activation memory of one batch in inference;
            ``training_memory_bytes`` the same with what a backward pass needs kept.
        failed: why there is no result, else None.
    """

    reducer: str
    options: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    accuracy_change: float | None = None
    groups: dict[str, float] = field(default_factory=dict)
    tokens: int | None = None
    tokens_by_stream: dict[str, int] = field(default_factory=dict)
    macs: int | None = None
    throughput: float | None = None
    speedup: float | None = None
    speedup_spread: float | None = None
    peak_memory_bytes: int | None = None
    training_memory_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
    failed: str | None = None


@dataclass
class Result:
    """All rows of one ablation and what is needed to repeat it."""

    rows: list[Row]
    setup: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every row has a result."""
        return all(row.failed is None for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """JSON-able: ``{"rows": [...], **setup}``."""
        return {"rows": [asdict(row) for row in self.rows], **self.setup}


def ablate(
    model: nn.Module,
    data: Sequence[Batch],
    reducers: Sequence[str] | Mapping[str, Mapping[str, Any]],
    *,
    metric: Callable[[Any, Any], Tensor],
    rounds: int = 7,
    seed: int = 0,
    step: Step | None = None,
) -> Result:
    """Evaluate a model under several reducers.

    Args:
        model: as for :func:`tokenreduce.attach`; it is left as it was.
        data: batches; all are judged, the first is timed.
        reducers: names, or options by name (``"layers"`` among them). With the option ``"reducer"`` the name is a
            label of your own: ``{"pumer+tome": {"reducer": {"cross": "pumer", "vision": "tome"}}}``. The first with
            the role ``"baseline"``, or else the first, is what the others are compared with.
        metric: ``metric(output, targets)`` gives a score per sample, (B,).
        rounds: timed rounds, every reducer once in each.
        seed: of torch's generator before each evaluation.
        step: called with (what, done, total) as work proceeds.

    Raises:
        OptionError: no data, or no reducers.

    Returns:
        A row per reducer. A reducer that fails gives a row that says why; the others are finished.
    """
    if not data or not reducers:
        raise OptionError(f"ablate needs data and reducers, got {len(data)} batches and {len(reducers)} reducers")
    options = dict(reducers) if isinstance(reducers, Mapping) else {name: {} for name in reducers}
    rows = [Row(name, dict(chosen)) for name, chosen in options.items()]
    total, done = len(rows) * (len(data) + 2 + rounds + 1), 0

    def tick(what: str, by: int = 1) -> None:
        nonlocal done
        done += by
        if step is not None:
            step(what, done, total)

    training = model.training
    model.eval()
    try:
        for row in rows:
            torch.manual_seed(seed)
            _guarded(row, lambda row=row: _judge(model, data, metric, row, tick))  # type: ignore[misc]
        _time_all(model, data[0], [row for row in rows if row.failed is None], rounds, tick)
    finally:
        model.train(training)
    base = _baseline(rows)
    for row in rows:
        if row.accuracy is not None and base is not None and base.accuracy is not None:
            row.accuracy_change = row.accuracy - base.accuracy
    setup = {
        "baseline": None if base is None else base.reducer,
        "samples": sum(len(batch) for batch in data),
        "batch": len(data[0]),
        "rounds": rounds,
        "seed": seed,
        **environment(),
    }
    return Result(rows, setup)


def environment() -> dict[str, Any]:
    """Versions and machine, for a result that can be read later."""
    from .. import __version__

    registry = default_registry()
    plugins = {f"{e.distribution}:{e.plugin}": e.version for e in registry.reducers.values()}
    return {
        "versions": {"tokenreduce": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "plugins": plugins,
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }


def _guarded(row: Row, work: Callable[[], None]) -> None:
    """Run part of a row; whatever a plugin raises becomes the row's reason."""
    try:
        work()
    except TokenReduceError as error:
        row.failed = str(error)
    except Exception as error:  # a stranger's reducer may raise anything
        row.failed = f"{type(error).__name__}: {error}"


def _judge(
    model: nn.Module,
    data: Sequence[Batch],
    metric: Callable[[Any, Any], Tensor],
    row: Row,
    tick: Callable[..., None],
) -> None:
    """Accuracy, tokens, multiply-adds and memory of one row."""
    with attached(model, row) as handle:
        keep = {"layers", *handle.config} - {"adapter", "trace", "restore"}
        if "reducer" not in row.options:
            keep -= {"reducer"}
        row.options = {name: value for name, value in handle.config.items() if name in keep}
        row.notes = handle.notes
        scores, groups = [], dict[str, list[float]]()
        with torch.inference_mode():
            for batch in data:
                score = metric(call(model, batch.inputs), batch.targets).float().cpu().tolist()
                scores += score
                for group, value in zip(batch.groups or (), score, strict=False):
                    groups.setdefault(group, []).append(value)
                tick(f"{row.reducer}: accuracy")
        row.accuracy = sum(scores) / len(scores)
        row.groups = {group: sum(values) / len(values) for group, values in sorted(groups.items())}
        row.tokens_by_stream = handle.tokens(handle.stacks[0])
        row.tokens = sum(row.tokens_by_stream.values())
        row.macs = count_macs(model, data[0].inputs, samples=len(data[0]))
        tick(f"{row.reducer}: MACs")
        row.peak_memory_bytes = peak_activation_bytes(model, data[0].inputs)
        row.training_memory_bytes = peak_activation_bytes(model, data[0].inputs, graph=True)
        tick(f"{row.reducer}: memory")


def _time_all(model: nn.Module, batch: Batch, rows: list[Row], rounds: int, tick: Callable[..., None]) -> None:
    """Throughput of all rows, interleaved."""
    if not rows:
        return
    base = _baseline(rows)
    assert base is not None

    @contextlib.contextmanager
    def candidate(row: Row) -> Iterator[Callable[[], object]]:
        with attached(model, row), torch.inference_mode():
            yield lambda: call(model, batch.inputs)

    device = next(model.parameters()).device
    contexts = {row.reducer: (lambda row=row: candidate(row)) for row in rows}  # type: ignore[misc]
    for result in interleaved(contexts, baseline=base.reducer, rounds=rounds, device=device):
        if result is None:
            tick("timing")
            continue
        for row in rows:
            timing = result[row.reducer]
            row.throughput = len(batch) / timing.median
            row.speedup, row.speedup_spread = timing.ratio, timing.spread


def attached(model: nn.Module, row: Row) -> Attachment:
    """The row's reducer on the model, as a context."""
    options = dict(row.options)
    layers = options.pop("layers", None)
    return attach(model, options.pop("reducer", row.reducer), layers=layers, **options)


def _baseline(rows: Sequence[Row]) -> Row | None:
    """The first row whose reducer changes nothing, else the first that worked."""
    known = default_registry().reducers
    worked = [row for row in rows if row.failed is None]
    for row in worked:
        if row.reducer in known and getattr(known[row.reducer].spec, "role", "") == "baseline":
            return row
    return worked[0] if worked else None
