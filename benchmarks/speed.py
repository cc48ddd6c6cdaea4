"""Throughput against what the multiply-adds allow, on models with random weights.

    python benchmarks/speed.py [--models vit-b vilt] [--reducers tome:r=16 evit:keep=0.7] [--batch 1,8] [--rounds 9]
                               [--markdown FILE] [--json FILE] [--compile] [--readout-only]
                               [--clock cpu --threads 1] [--peer FILE.py]

``plain`` is the library's own forward, ``none`` the attached engine with nothing removed; without ``--reducers`` each
model has those of its table below. Every round runs every candidate once, in alternating order, in one process, on
copies of the model that share their weights; rounds that other processes disturbed are dropped (``rounds.py``). A
speed-up is the median of the ratios of one round. "Allowed" is the ratio of multiply-adds of the whole model, reducer
included, torch's flop counter / 2. With ``--readout-only`` each candidate is timed again with
``attach(..., readout_only=True)``, beside itself with all tokens.

Another implementation is timed beside ours with ``--peer FILE.py``. The file defines

    def peers(name, model, inputs):
        return {"what to call it": forward}

where ``model`` is a copy of the model that it may change, ``inputs`` the keyword arguments of its call, and ``forward``
a function without arguments that runs it. With ``--clock cpu --threads 1`` processor time is taken instead of time, for
a machine that does other things too.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rounds as shared
import torch
from torch import nn

import tokenreduce

Built = tuple[nn.Module, dict[str, Any]]
TOME, EVIT, TOWER = (
    {"tome r=16": {"reducer": "tome", "r": 16}},
    {"evit keep=0.7": {"reducer": "evit"}},
    {"reducer": "tome", "r": 25},
)


def timm_model(name: str, size: int, batch: int) -> Built:
    """A model of timm."""
    import timm

    return timm.create_model(name).eval(), {"x": torch.randn(batch, 3, size, size)}


def words(batch: int, size: int) -> dict[str, Any]:
    """32 tokens of text and a picture."""
    return {
        "input_ids": torch.randint(5, 1000, (batch, 32)),
        "attention_mask": torch.ones(batch, 32, dtype=torch.long),
        "pixel_values": torch.randn(batch, 3, size, size),
    }


def vilt(batch: int) -> Built:
    """ViLT-base at 384 px (145 image tokens) with 32 text tokens."""
    from transformers import ViltConfig, ViltForQuestionAnswering

    return ViltForQuestionAnswering(ViltConfig(num_labels=3129)).eval(), words(batch, 384)


def meter(batch: int) -> Built:
    """METER-base at 384 px (577 image tokens) with 32 text tokens."""
    from tokenreduce_models.meter import MeterConfig, MeterForQuestionAnswering

    return MeterForQuestionAnswering(MeterConfig(num_labels=3129)).eval(), words(batch, 384)


MODELS: dict[str, tuple[Callable[[int], Built], dict[str, dict[str, Any]]]] = {
    "vit-ti": (lambda batch: timm_model("vit_tiny_patch16_224", 224, batch), {**TOME, **EVIT}),
    "deit-s": (
        lambda batch: timm_model("deit_small_patch16_224", 224, batch),
        {**TOME, **EVIT, "pumer": {"reducer": "pumer"}},
    ),
    "vit-b": (
        lambda batch: timm_model("vit_base_patch16_224", 224, batch),
        {**TOME, **EVIT, "pumer": {"reducer": "pumer"}},
    ),
    "clip-l-336": (
        lambda batch: timm_model("vit_large_patch14_clip_336", 336, batch),
        {"tome r=23": {"reducer": "tome", "r": 23}},
    ),
    "vilt": (vilt, {"pumer": {"reducer": "pumer"}}),
    "meter": (
        meter,
        {
            "pumer": {"reducer": "pumer"},
            "pumer + tome r=25 in vision": {"reducer": {"cross": "pumer", "vision": TOWER}},
        },
    ),
}


def parsed(text: str) -> dict[str, Any]:
    """``tome:r=16:layers=[0,1]`` as arguments of attach."""
    name, *options = text.split(":")
    found: dict[str, Any] = {"reducer": name}
    for option in options:
        key, _, value = option.partition("=")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def bench(name: str, batch: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One model at one batch size, all its candidates."""
    torch.manual_seed(0)
    make, usual = MODELS[name]
    model, inputs = make(batch)
    dtype = getattr(torch, given.dtype)
    model = model.to(given.device, dtype)
    inputs = {key: x.to(given.device, dtype if x.is_floating_point() else None) for key, x in inputs.items()}
    asked = {text: parsed(text) for text in given.reducers} if given.reducers else usual
    asked = {"none": {"reducer": "none"}, **{label: one for label, one in asked.items() if one["reducer"] != "none"}}
    if given.readout_only:
        alone = {f"{label}, readout only": {**one, "readout_only": True} for label, one in asked.items()}
        asked = {key: value for pair in zip(asked.items(), alone.items(), strict=True) for key, value in pair}
    works: dict[str, Callable[[], object]] = {}
    macs: dict[str, float | None] = {}

    def add(label: str, options: dict[str, Any] | None) -> None:
        copied = shared.twin(model)
        if options is not None:
            tokenreduce.attach(copied, **options)
        macs[label] = tokenreduce.count_macs(copied, inputs, samples=batch)
        forward: Any = torch.compile(copied) if given.compile else copied
        begin = time.perf_counter()
        forward(**inputs)
        first[label] = time.perf_counter() - begin
        works[label] = lambda: forward(**inputs)

    first: dict[str, float] = {}
    with torch.inference_mode():
        add("plain", None)
        for label, options in asked.items():
            add(label, options)
        if given.peer:
            more = runpy.run_path(str(given.peer))["peers"](name, shared.twin(model), inputs)
            works |= more
            macs |= dict.fromkeys(more)
        made = shared.run(
            works,
            given.rounds,
            clock=given.clock,
            least=0.05,
            foreign=given.foreign,
            device=torch.device(given.device),
            longest=given.longest,
        )
    return [row(name, batch, label, made, macs, first.get(label)) for label in works]


def row(
    model: str, batch: int, label: str, made: shared.Rounds, macs: dict[str, float | None], first: float | None
) -> dict[str, Any]:
    """One line of the table, printed as it is made."""
    plain, own = macs["plain"], macs[label]
    allowed = None if plain is None or own is None else plain / own
    speedup, spread = made.speedup("plain", label)
    found = {
        "model": model,
        "batch": batch,
        "reducer": label,
        "gmacs": None if own is None else own / 1e9,
        "seconds": made.median(label),
        "first_call": first,
        "speedup": speedup,
        "spread": spread,
        "speedup_over_none": made.speedup("none", label)[0],
        "allowed": allowed,
        "share_of_allowed": None if allowed is None else speedup / allowed,
        "rounds": len(made.seconds[label]),
        "dropped": made.dropped,
        "quiet": made.quiet,
    }
    bound = "" if allowed is None else f"   allowed x{allowed:.2f}, reached {100 * speedup / allowed:.0f} %"
    noise = "" if made.quiet else "   (other processes disturbed every round)"
    print(
        f"{model:<11} b{batch:<3} {label:<29}{1e3 * found['seconds']:>9.2f} ms   x{speedup:.3f} ± {spread:.3f} of plain"
        f"   x{found['speedup_over_none']:.3f} of none{bound}{noise}",
        flush=True,
    )
    return found


def table(rows: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The rows as Markdown, with the machine in front."""
    facts = shared.machine()
    dropped = sum({(one["model"], one["batch"]): one["dropped"] for one in rows}.values())
    clock = "processor time of one process" if given.clock == "cpu" else "time"
    where = facts["accelerator"] if given.device != "cpu" else "no accelerator"
    how = f"torch {facts['torch']}, {given.dtype}{', torch.compile' if given.compile else ''}"
    lines = [
        f"{facts['processor']}, {facts['threads']} threads of {facts['cores']} cores, {where}; {how}; medians of "
        f"paired ratios of {given.rounds} interleaved rounds at most ({clock}); {dropped} rounds were dropped that "
        "other processes disturbed.",
        "",
        "| model | batch | reducer | GMACs | ms | over plain | over `none` | allowed | reached |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in rows:
        gmacs, allowed, share = (
            "" if one[name] is None else f"{one[name]:{form}}"
            for name, form in (("gmacs", ".2f"), ("allowed", ".2f"), ("share_of_allowed", ".0%"))
        )
        mark = "" if one["quiet"] else " (disturbed)"
        lines.append(
            f"| {one['model']} | {one['batch']} | {one['reducer']} | {gmacs} | {1e3 * one['seconds']:.1f} "
            f"| {one['speedup']:.2f} ± {one['spread']:.2f}{mark} | {one['speedup_over_none']:.2f} "
            f"| {allowed} | {share} |"
        )
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["deit-s", "vit-b", "vilt"], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--reducers", nargs="+", help="NAME:OPTION=VALUE:..., instead of each model's own")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may take")
    parser.add_argument("--longest", type=float, default=90.0, help="seconds of rounds per model and batch size")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile after attach, the plain model too")
    parser.add_argument("--readout-only", action="store_true", help="each candidate with readout_only=True, too")
    parser.add_argument("--peer", type=Path, help="a file that defines peers(name, model, inputs)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    given.models = [name for text in given.models for name in text.split(",")]
    unknown = [name for name in given.models if name not in MODELS]
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; valid: {', '.join(MODELS)}")
    return given


def main() -> None:
    """Parse and run."""
    given = arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    batches = [int(batch) for batch in given.batch.split(",")]
    rows = [one for name in given.models for batch in batches for one in bench(name, batch, given)]
    shared.write(given.json, rows)
    text = table(rows, given)
    if given.markdown:
        given.markdown.write_text(text)


if __name__ == "__main__":
    main()
