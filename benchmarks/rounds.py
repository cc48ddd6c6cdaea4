"""What the benchmarks share: interleaved rounds, the load of other processes, paired ratios, and the machine's facts.

Every round runs every work once, in alternating order, in one process. A round is dropped when other processes took
more than a share of the machine's processor time while it ran (read from ``/proc/stat``; elsewhere none is dropped).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

Works = Mapping[str, Callable[[], object]]


@dataclass
class Rounds:
    """Seconds of each work, one per round that counts.

    Attributes:
        seconds: by name.
        dropped: how many rounds other processes disturbed.
        quiet: False where no round was undisturbed, so that all of them count.
    """

    seconds: dict[str, list[float]]
    dropped: int
    quiet: bool

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, base: str, name: str) -> list[float]:
        """How many times as fast as ``base``, round by round."""
        return [one / own for one, own in zip(self.seconds[base], self.seconds[name], strict=True)]

    def speedup(self, base: str, name: str) -> tuple[float, float]:
        """Median of these ratios, and half the range between their quartiles."""
        ratios = self.ratios(base, name)
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        return statistics.median(ratios), (quartiles[2] - quartiles[0]) / 2


def run(
    works: Works,
    rounds: int,
    *,
    clock: str = "wall",
    least: float = 0.0,
    foreign: float = 0.05,
    device: torch.device | None = None,
    longest: float = math.inf,
) -> Rounds:
    """Time works in rounds, after one that is not timed.

    Args:
        works: by name.
        rounds: that count; three times as many are run at most.
        clock: ``"wall"``, or ``"cpu"``: processor time of this process, which other processes change little.
        least: a work that takes less than so many seconds is repeated, and its mean taken.
        foreign: a round is dropped if other processes took a larger share of the machine's processor time; with the
            clock ``"cpu"`` none is.
        device: an accelerator to wait for.
        longest: seconds after which no further round begins.
    """
    begun, kept, disturbed = time.perf_counter(), list[dict[str, float]](), list[dict[str, float]]()
    repeats = {
        name: max(1, min(math.ceil(least / max(_time(work, 1, clock, device), 1e-6)), 50))
        for name, work in works.items()
    }
    for turn in range(3 * rounds):
        if len(kept) == rounds or (turn and time.perf_counter() - begun > longest):
            break
        load = Load()
        spent = {}
        for name in works if turn % 2 else reversed(list(works)):
            spent[name] = _time(works[name], repeats[name], clock, device)
        others = load.others()
        (kept if clock == "cpu" or others is None or others <= foreign else disturbed).append(spent)
    quiet = bool(kept)
    counted = kept or disturbed
    return Rounds({name: [one[name] for one in counted] for name in works}, len(disturbed) if quiet else 0, quiet)


def _time(work: Callable[[], object], repeats: int, clock: str, device: torch.device | None) -> float:
    now = time.process_time if clock == "cpu" else time.perf_counter
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = now()
    for _ in range(repeats):
        work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return (now() - begin) / repeats


class Load:
    """Processor time that other processes take from now on."""

    def __init__(self) -> None:
        self.begun, self.busy, self.own = time.perf_counter(), busy(), own()

    def others(self) -> float | None:
        """Their share of what all processors had to give since; None where it is not known."""
        now = busy()
        if now is None or self.busy is None:
            return None
        given = (time.perf_counter() - self.begun) * (os.cpu_count() or 1)
        return max((now - self.busy) - (own() - self.own), 0.0) / max(given, 1e-9)


def busy() -> float | None:
    """Seconds that the machine's processors have worked; None where it is not known."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Seconds that this process has worked."""
    return time.process_time()


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def described(dtype: str, device: str, made: Rounds | None = None) -> str:
    """A sentence on the machine, for above a table."""
    facts = machine()
    where = facts["accelerator"] if device != "cpu" else "no accelerator"
    text = f"{facts['processor']}, {facts['threads']} threads of {facts['cores']} cores, {where}; torch "
    text += f"{facts['torch']}, {dtype}"
    if made is None:
        return f"{text}."
    counted = len(next(iter(made.seconds.values())))
    noise = f"{made.dropped} dropped" if made.quiet else "every one disturbed by other processes"
    return f"{text}; medians of paired ratios of {counted} interleaved rounds ({noise})."


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, numbers on the right."""
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def twin(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its weights."""
    held = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in held})


def add_options(parser: argparse.ArgumentParser, rounds: int = 9) -> None:
    """What every benchmark that times in rounds is asked."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may take")
    parser.add_argument("--longest", type=float, default=math.inf, help="seconds after which no further round begins")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)


def write(path: Path | None, rows: Any, **more: Any) -> None:
    """Rows and the machine they were measured on, as JSON; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **more, "rows": rows}, indent=2) + "\n")
