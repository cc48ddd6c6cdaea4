"""Throughput against what the multiply-adds allow, on base-size models with random weights.

    python benchmarks/speed.py [--batch 8] [--rounds 9] [--model vilt,vit,meter] [--json FILE]

Every round runs every candidate once, in alternating order, in one process. ``plain`` is the library's own
forward, ``none`` the engine with nothing removed (attach at zero budget), the others methods. Reported per
candidate: median seconds, speed-up over ``none`` and over ``plain`` (median of per-round ratios), the
speed-up that MACs allow (MACs of ``none`` / MACs of the candidate, whole model, reducer included, torch's
flop counter / 2), and the share of that which was reached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import tokenreduce
from tokenreduce.measure.timing import interleave

TOWER = {"vision": {"reducer": "tome", "r": 25}}
CANDIDATES: dict[str, dict[str, dict[str, Any]]] = {  # "reducer": what to attach, where it is not the name
    "vilt": {"none": {}, "pumer": {}, "evit": {"keep": 0.6, "layers": [2, 5, 8]}, "tome": {"r": 10}},
    "vit": {"none": {}, "tome": {"r": 13}, "evit": {"keep": 0.7}, "pumer": {}},
    "meter": {
        "none": {"reducer": {"cross": "none", "vision": "none", "text": "none"}},
        "pumer": {},
        "tome in vision": {"reducer": TOWER},
        "pumer + tome in vision": {"reducer": {"cross": "pumer", **TOWER}},
    },
}


def vilt(batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """ViLT-base at 384 px (145 image tokens) with 32 text tokens."""
    from transformers import ViltConfig, ViltForQuestionAnswering

    model = ViltForQuestionAnswering(ViltConfig(num_labels=3129)).eval()
    return model, {
        "input_ids": torch.randint(5, 1000, (batch, 32)),
        "attention_mask": torch.ones(batch, 32, dtype=torch.long),
        "pixel_values": torch.randn(batch, 3, 384, 384),
    }


def vit(batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """timm vit_base_patch16_224."""
    import timm

    return timm.create_model("vit_base_patch16_224").eval(), {"x": torch.randn(batch, 3, 224, 224)}


def meter(batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """METER-base at 384 px (577 image tokens) with 32 text tokens."""
    from tokenreduce_models.meter import MeterConfig, MeterForQuestionAnswering

    model = MeterForQuestionAnswering(MeterConfig(num_labels=3129)).eval()
    return model, {
        "input_ids": torch.randint(5, 1000, (batch, 32)),
        "pixel_values": torch.randn(batch, 3, 384, 384),
        "attention_mask": torch.ones(batch, 32, dtype=torch.long),
    }


def on(model: torch.nn.Module, name: str, options: dict[str, Any] | None) -> contextlib.AbstractContextManager[Any]:
    """A candidate on the model, as a context; None leaves the model alone."""
    if options is None:
        return contextlib.nullcontext()
    return tokenreduce.attach(model, **{"reducer": name, **options})


def bench(name: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """One model, all its candidates."""
    torch.manual_seed(0)
    model, inputs = MODELS[name](batch)
    reducers = {"plain": None, **CANDIDATES[name]}

    @contextlib.contextmanager
    def candidate(reducer: str) -> Iterator[Callable[[], object]]:
        with on(model, reducer, reducers[reducer]), torch.inference_mode():
            yield lambda: model(**inputs)

    macs = {}
    for reducer, options in reducers.items():
        with on(model, reducer, options):
            macs[reducer] = tokenreduce.count_macs(model, inputs, samples=batch)
    contexts = {reducer: (lambda r=reducer: candidate(r)) for reducer in reducers}
    *_, timing = interleave(contexts, baseline="none", rounds=rounds)
    assert timing is not None
    rows = []
    for reducer, t in timing.items():
        over_plain = statistics.median(p / s for p, s in zip(timing["plain"].seconds, t.seconds, strict=True))
        allowed = macs["none"] / macs[reducer]
        row = {
            "model": name,
            "reducer": reducer,
            "options": reducers[reducer],
            "batch": batch,
            "gmacs": macs[reducer] / 1e9,
            "seconds": t.median,
            "speedup_over_none": t.ratio,
            "spread": t.spread,
            "speedup_over_plain": over_plain,
            "allowed_by_macs": allowed,
            "share_of_allowed": t.ratio / allowed,
        }
        rows.append(row)
        print(
            f"{name:<6}{reducer:<23}{row['gmacs']:>7.2f} GMACs {t.median:>7.3f} s   "
            f"x{t.ratio:.3f} ± {t.spread:.3f} of none   x{over_plain:.3f} of plain   "
            f"MACs allow x{allowed:.3f}   reached {100 * t.ratio / allowed:.0f} %",
            flush=True,
        )
    return rows


MODELS = {"vilt": vilt, "vit": vit, "meter": meter}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default="vilt,vit,meter", help="some of vilt, vit, meter")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row for name in args.model.split(",") for row in bench(name, args.batch, args.rounds)]
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
