"""What an ablation is asked for, as data: from Python, from flags, a TOML or JSON file, a preset, an earlier result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, Len

from .._documents import check, check_document, read_document
from ..errors import OptionError
from .levels import check_levels, parse_ratios

Count = Annotated[int, Ge(1), Le(10**9)]
Few = Annotated[int, Ge(1), Le(10_000)]
BatchSize = Annotated[int, Ge(1), Le(2**20)]
Seed = Annotated[int, Ge(-(2**62)), Le(2**62)]
Level = Annotated[list[float], Len(0, 1000)]


def _flag(said: str, metavar: str | None = None, **more: Any) -> dict[str, Any]:
    """What the command line makes of a field: the help of its flag."""
    return {"help": said, "metavar": metavar, **more}


@dataclass(frozen=True)
class Request:
    """All that decides an ablation. It is checked once, when it is made, and ``setup["request"]`` of a result holds it.

    Attributes:
        model: name of a task, or of a model for a loader; None for the first task, or for one given in Python.
        data: file or folder of samples, for a loader.
        metric: one of the task's further metrics by name, None for its own.
        variants: options by name, ``"reducer"`` and ``"layers"`` among them; None for every reducer of the registry
            with the task's own settings.
        ratios, match_macs: levels, see :func:`tokenreduce.ablate`.
        samples, batch: how many samples of a task, in batches of what size.
        batch_sizes: to time, 1 always among them; None for 1, 8 and that of the first batch.
        rounds, seeds, seed: see :func:`tokenreduce.ablate`.
        break_even: whether to time other picture sizes.
        time: whether to time anything; without, what is left can be worked out on machines that others use too.
        readout_only: whether every row is attached with ``readout_only=True``, the baseline too.
        pictures: samples to draw.
    """

    model: str | None = field(
        default=None, metadata=_flag("a task, or a hub id, folder or file (default: the first task)", "NAME")
    )
    data: str | None = field(
        default=None, metadata=_flag("its samples: JSON lines or a table, or a folder of classes", "PATH")
    )
    metric: str | None = field(
        default=None, metadata=_flag("one of the task's further metrics ('image R@5' of captions)", "NAME")
    )
    variants: dict[str, dict[str, Any]] | None = None
    ratios: Level = field(
        default_factory=list,
        metadata=_flag("shares of image tokens to be gone (0.1:0.6:0.1, or 0.2,0.4)", "A:B:STEP"),
    )
    match_macs: Level = field(
        default_factory=list, metadata=_flag("solve every method for this share of multiply-adds (0.55)", "SHARE")
    )
    samples: Count = field(default=1000, metadata=_flag("samples to evaluate"))
    batch: BatchSize = field(default=50, metadata=_flag("batch size"))
    batch_sizes: list[BatchSize] | None = field(
        default=None, metadata=_flag("batch sizes to time (1, 8 and --batch)", "A,B,...")
    )
    rounds: Few = field(default=7, metadata=_flag("timed rounds"))
    seeds: Few = field(default=3, metadata=_flag("runs of what draws at random"))
    seed: Seed = field(default=0, metadata=_flag("the first seed"))
    break_even: bool = field(default=True, metadata=_flag("leave out timing at other picture sizes"))
    time: bool = field(default=True, metadata=_flag("time nothing: accuracy, multiply-adds and memory alone"))
    readout_only: bool = field(
        default=False,
        metadata=_flag("let the last block compute only what the head reads, in every row, the baseline too"),
    )
    pictures: Annotated[int, Ge(0), Le(1000)] = field(default=4, metadata=_flag("samples to draw in the report"))

    def __post_init__(self) -> None:
        check_levels(self.ratios, self.match_macs)
        if self.variants is not None and not self.variants:
            raise OptionError("it names no variants; give some, or leave the entry out for every reducer")
        for name, options in (self.variants or {}).items():
            if "readout_only" in options:
                raise OptionError(
                    f"variant {name!r} has readout_only, but rows can only be compared where all of them have it, the "
                    "baseline too; give it for the whole ablation (--readout-only, readout_only=True)"
                )

    def with_(self, where: str = "", **changes: Any) -> Request:
        """A copy with the changes that are not None, checked; ``where`` begins the message."""
        return check(Request, {**vars(self), **{k: v for k, v in changes.items() if v is not None}}, where)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; :func:`request_from_mapping` takes it back."""
        return asdict(self)


def request_from_mapping(given: Any, where: str) -> Request:
    """A request from what a file holds.

    Raises:
        OptionError: an unknown entry, or one of the wrong kind; ``where`` names the file.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"{where} holds a table of entries (samples = 1000, [variants.NAME] ...), got {given!r}")
    values = dict(given)
    for name in ("ratios", "match_macs"):
        if isinstance(values.get(name), str):
            try:
                values[name] = parse_ratios(values[name])
            except OptionError as error:
                raise OptionError(f"{where}: {name}: {error}") from error
        elif isinstance(values.get(name), (int, float)) and not isinstance(values[name], bool):
            values[name] = [values[name]]
    return check_document(Request, values, where)


def read_request(path: str | Path, model: str | None = None) -> Request:
    """A request from a TOML or JSON file; of the JSON of a result, what it was asked for.

    Args:
        model: what stands in for the model of the file.

    Raises:
        OptionError: no such file, it cannot be read as one, or it is a result that no file can bring back.
    """
    given = read_document(path, "name a TOML or JSON file")
    if isinstance(given, dict) and "setup" in given:
        setup = given["setup"]
        if not isinstance(setup, dict) or not isinstance(setup.get("request"), dict):
            raise OptionError(
                f"{path}: setup.request must be a table of entries, as 'tokenreduce ablate --json' writes it, so there "
                "is nothing to repeat"
            )
        if setup["request"].get("model") is None and model is None:
            raise OptionError(
                f"{path} is of a model and data given in Python, which a file cannot bring back; call "
                "tokenreduce.ablate there again, or name a model with --model"
            )
        return request_from_mapping(setup["request"], f"{path}: setup.request")
    return request_from_mapping(given, str(path))
