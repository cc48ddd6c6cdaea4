"""Per-sample logs of lm-eval and lmms-eval (``--log_samples``) as a result: a row for each task and metric."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._documents import read_document, read_text, short
from ..errors import OptionError
from .logged_scores import score_of
from .result import Result, Row

WANTED = "expected the samples that lm-eval or lmms-eval writes with --log_samples, or the folder of --output_path"
NAMES = (  # how the two call a file of samples
    re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl"),
    re.compile(r"(?P<date>\d{8}_\d{6})_samples_(?P<task>.+)\.jsonl"),
)
NO_METRICS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash"}
NO_METRICS |= {"prompt_hash", "target_hash", "token_counts", "input", "input_media"}
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object in memory, which JSON has no form for
MOST = 2**62

Samples = dict[int, dict[str, Any]]


@dataclass(frozen=True)
class Log:
    """One file of samples: its task, when it was written, and where."""

    task: str
    date: str
    path: Path


def is_log(path: Path) -> bool:
    """Whether a path is a file of samples, or a folder."""
    return path.is_dir() or path.suffix.lower() == ".jsonl"


def read_logs(path: Path) -> Result:
    """The samples of a file, or of the newest file of each task in a folder, as a result without times or costs.

    Raises:
        OptionError: no such files, or not what a harness writes.
    """
    logs = list(find_logs(path))
    if not logs:
        raise OptionError(f"{path} holds no file of samples; {WANTED}")
    notes: list[str] = []
    rows = [row for log in logs for row in _rows(log, notes)]
    if not rows:
        raise OptionError(f"{path} has no metric with a score for every sample; {WANTED}")
    about = _about(logs[0])
    tokens = about.pop("tokens", None)
    for row in rows:
        row.tokens = tokens
    whole = hashlib.sha256(json.dumps([row.data for row in rows]).encode()).hexdigest()[:32]
    data = {"fingerprint": whole, "samples": {log.task: _samples_of(rows, log.task) for log in logs}}
    return Result(rows, {"data": data, **about, "notes": notes})


def find_logs(path: Path) -> Iterator[Log]:
    """The file itself, or of a folder and those in it the newest file of each task, by name of the task."""
    if not path.is_dir():
        yield _log(path) or Log(path.stem, "", path)
        return
    newest: dict[str, Log] = {}
    for log in filter(None, map(_log, sorted([*path.glob("*.jsonl"), *path.glob("*/*.jsonl")]))):
        if log.task not in newest or log.date > newest[log.task].date:
            newest[log.task] = log
    yield from (newest[task] for task in sorted(newest))


def _log(path: Path) -> Log | None:
    found = next(filter(None, (name.fullmatch(path.name) for name in NAMES)), None)
    return None if found is None else Log(found["task"], found["date"], path)


def _rows(log: Log, notes: list[str]) -> Iterator[Row]:
    for label, samples in read_samples(log.path).items():
        order = sorted(samples)
        data = fingerprint(log.task, samples)
        for metric in _metrics(samples[order[0]]):
            scores = [score_of(samples[number].get(metric)) for number in order]
            known = [score for score in scores if score is not None]
            if len(known) < len(scores):
                notes.append(f"{log.task}: {metric} is left out; {len(scores) - len(known)} samples have no score")
                continue
            name = f"{log.task}: {metric}{f' ({label})' if label else ''}"
            yield Row(name, accuracy=sum(known) / len(known), scores=known, data=data)


def read_samples(path: Path) -> dict[str, Samples]:
    """The records of a file by their number, for each filter of lm-eval; ``""`` is the one without a name.

    Raises:
        OptionError: a line is not such a record, or a sample is there twice.
    """
    found: dict[str, Samples] = {}
    for index, line in enumerate(read_text(path, WANTED).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"{path}, line {index} is not JSON: {error}; {WANTED}") from error
        number = record.get("doc_id") if isinstance(record, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or abs(number) > MOST:
            raise OptionError(f"{path}, line {index} has no number 'doc_id', got {short(record)}; {WANTED}")
        label = str(record.get("filter", "none"))
        samples = found.setdefault("" if label == "none" else label, {})
        if number in samples:
            raise OptionError(
                f"{path}, line {index}: sample {number} is there twice; a file that two runs were written to, or runs "
                "with several filters or repeats of lmms-eval, cannot be paired. Name a file of one run"
            )
        samples[number] = record
    if not found:
        raise OptionError(f"{path} is empty; {WANTED}")
    return found


def fingerprint(task: str, samples: Samples) -> str:
    """What tells samples apart: task, number, right answer, and the record itself where it is logged.

    The harnesses' own hash of a record takes in where its picture lies in memory, so it is of no use here.
    """
    facts = []
    for number in sorted(samples):
        record = samples[number]
        doc = json.dumps(record.get("doc"), sort_keys=True)
        facts.append([number, str(record.get("target")), ADDRESS.sub("", doc)])
    return hashlib.sha256(json.dumps([task, facts]).encode()).hexdigest()[:32]


def _metrics(record: Mapping[str, Any]) -> list[str]:
    named = record.get("metrics")
    if isinstance(named, list):
        return [str(name) for name in named]
    return [name for name, value in record.items() if name not in NO_METRICS and score_of(value) is not None]


def _samples_of(rows: Sequence[Row], task: str) -> int:
    return next((len(row.scores) for row in rows if row.name.startswith(f"{task}: ")), 0)


def _about(log: Log) -> dict[str, Any]:
    """What the file of results beside the samples says of model, attachment and image tokens."""
    names = (f"results_{log.date}.json", f"{log.date}_results.json")
    beside = next((log.path.with_name(name) for name in names if log.path.with_name(name).is_file()), None)
    if beside is None or not log.date:
        return {}
    document = read_document(beside, WANTED)
    config, speed = (_table(_table(document).get(name)) for name in ("config", "throughput"))
    about: dict[str, Any] = {"model": {"name": config.get("model"), "arguments": config.get("model_args")}}
    attached = _table(config.get("tokenreduce"))
    if attached:
        about["tokenreduce"] = attached
    left = attached.get("image_tokens_left", speed.get("avg_image_tokens_left"))
    if isinstance(left, (int, float)) and 0 <= left < MOST:
        about["tokens"] = round(left)
    return about


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
