"""Results and pictures made by hand, some of them hostile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokenreduce.lab.result import BatchTiming, BreakEven, Comparison, Picture, Result, Row, SiteTokens
from tokenreduce.report.sample_view import png

HOSTILE = "<script>alert('1')</script> & \"q\" $x_1$ \x00\x1b[31m \u202e \ud800 😀 {{ 7 * 7 }} </title></svg>"
SETUP = {
    "baseline": "none",
    "model": {"name": "a model", "class": "somewhere.Model"},
    "data": {"samples": 40},
    "command": ["tokenreduce", "ablate", "--model", "a model"],
    "definitions": {"accuracy": "mean score"},
    "versions": {"torch": "2"},
    "notes": ["a remark"],
}


def make_row(name: str, **fields: Any) -> Row:
    """A row with everything in it."""
    level = fields.get("ratio") or 0.0
    accuracy = fields.pop("accuracy", 0.9 - 0.2 * level)
    full: dict[str, Any] = {
        "reducer": "some",
        "options": {"layers": [1]},
        "accuracy": accuracy,
        "interval": (accuracy - 0.02, accuracy + 0.02),
        "groups": {"easy": 0.9, "hard": 0.5},
        "scores": [1.0, 0.0],
        "tokens": 20,
        "tokens_by_stream": {"text": 4, "image": 16},
        "sites": [SiteTokens("encoder", 1, "text", 4, 4), SiteTokens("encoder", 1, "image", 32, 16)],
        "macs": int(3e8 * (1 - level / 2)),
        "macs_share": 1 - level / 2,
        "paces": [BatchTiming(1, [0.01, 0.011], [0.02, 0.02]), BatchTiming(8, [0.1, 0.11 - 0.05 * level], [0.2, 0.21])],
        "memory_batch": 8,
        "peak_memory_bytes": 2**25,
        "training_memory_bytes": 2**31,
        "overhead": 0.02,
        "break_even": BreakEven(8, [(10, 0.8, 0.1), (40, 1.3, 0.1)], 40),
        "versus_baseline": Comparison("none", -0.02, -0.04, 0.0, 0.03, "McNemar", 0.06),
        "versus_control": Comparison("random", 0.03, 0.01, 0.05, 0.001, "McNemar"),
        "verdict": "beats random: +3.0 points (p = 0.001) at equal multiply-adds",
        "notes": ["a note"],
    }
    return Row(name, **{**full, **fields})


@pytest.fixture
def row() -> Callable[..., Row]:
    """Make a row with everything in it; keywords override."""
    return make_row


@pytest.fixture
def picture() -> Callable[..., Picture]:
    """A picture of 4 x 6 patches: six gone, three groups, the others kept."""

    def build(row: str = "method", **fields: Any) -> Picture:
        image = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0))
        owner = [-1] * 6 + [1, 1, 1, 2, 2, 3, 1, 4, 4, 2, 5, 6] + list(range(7, 13))
        made = {"text": "what is it", "expected": "a cat", "before": "a cat", "after": "a dog", "image": png(image)}
        return Picture(row, **{**made, "grid": (4, 6), "owner": owner, **fields})

    return build


@pytest.fixture
def full(picture: Callable[..., Picture]) -> Result:
    """Baseline, control and methods at several levels, one that failed, and pictures."""
    rows = [make_row("none", role="baseline", variant="none", versus_control=None, verdict="")]
    for variant, role in (("random", "control"), ("first", "method"), ("second", "method")):
        rows += [
            make_row(f"{variant} @ {ratio}", variant=variant, role=role, ratio=ratio) for ratio in (0.1, 0.2, 0.4, 0.6)
        ]
    rows.append(Row("broken", failed="UnfitReducerError: not here"))
    pictures = [picture(name) for name in ("none", "first @ 0.2")]
    return Result(rows, dict(SETUP), pictures)


@pytest.fixture
def hostile(picture: Callable[..., Picture]) -> Result:
    """Every text is an attack."""
    comparison = Comparison(HOSTILE, 0.1, 0.0, 0.2, 0.01, HOSTILE)
    rows = [
        make_row(
            f"{HOSTILE} {i}",
            variant=HOSTILE,
            ratio=0.1 * i,
            role=HOSTILE if i else "method",
            groups={HOSTILE: 0.5},
            tokens_by_stream={HOSTILE: 3, "image": 4},
            sites=[SiteTokens(HOSTILE, 1, HOSTILE, 9, 3), SiteTokens(HOSTILE, 1, "image", 9, 3)],
            versus_control=comparison,
            verdict=HOSTILE,
            notes=[HOSTILE],
        )
        for i in range(3)
    ]
    rows.append(Row(f"{HOSTILE} failed", failed=HOSTILE))
    words = {"text": HOSTILE, "expected": HOSTILE, "before": HOSTILE, "after": HOSTILE}
    broken = [
        picture(HOSTILE, image=f'"/>{HOSTILE}'),
        picture("few", owner=[1]),
        picture("none", grid=(0, 0), owner=[]),
    ]
    setup = {HOSTILE: {HOSTILE: HOSTILE}, "definitions": {HOSTILE: HOSTILE}, "command": [HOSTILE], "notes": [HOSTILE]}
    return Result(rows, {**setup, "model": {"name": HOSTILE}}, [picture(HOSTILE, **words), *broken])
