"""Prefill, time to first token, decode and cache of a random LLaVA, against what the multiply-adds allow.

    python benchmarks/lvlm.py [--layers 12] [--width 1024] [--rounds 9] [--batch 1] [--device cpu] [--dtype float32]

The tower is CLIP ViT-L/14's shape at 336 px with ``--tower`` of its layers: 576 image tokens. Every round runs every
candidate once, in alternating order, in one process. ``plain`` is the library's own model, ``none`` the attached one
with no cut. Prefill is the language model alone (image features computed before), on 576 image and 48 text tokens;
time to first token includes the tower; decode is the mean of ``--tokens`` steps after it. "Reached" is the speed-up of
the prefill over ``none`` divided by the one that multiply-adds allow. ``text N`` is the plain model on N tokens of text
alone: what a prompt of that length costs, which small matrices make more than its share.
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
import transformers

import tokenreduce
from tokenreduce.measure.timing import interleave

IMAGE = 999
CANDIDATES: dict[str, Any] = {
    "plain": None,
    "none": {"handover": "none"},
    "hand-over 0.5": {"handover": {"reducer": "random", "keep": 0.5}},
    "hand-over 0.25": {"handover": {"reducer": "random", "keep": 0.25}},
    "hand-over 64": {"handover": {"reducer": "random", "keep": 64}},
    "tower signals 64": {"handover": {"reducer": "evit", "keep": 64, "fuse": False}},
    "after layer 1, 0.5": {"language": {"reducer": "evit", "layers": [1], "keep": 0.5, "fuse": False}},
}


def llava(layers: int, width: int, tower: int) -> Any:
    """A LLaVA-1.5 with random weights."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=tower,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=width * 11008 // 4096,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        num_key_value_heads=width // 128,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return transformers.LlavaForConditionalGeneration(config).eval()


def prompt(batch: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """8 tokens of text, an image, 40 tokens of text."""
    text = torch.randint(5, 900, (batch, 48))
    ids = torch.cat([text[:, :8], torch.full((batch, 576), IMAGE), text[:, 8:]], dim=1)
    return {"input_ids": ids.to(device), "pixel_values": torch.randn(batch, 3, 336, 336).to(device, dtype)}


@contextlib.contextmanager
def attached(model: Any, plan: Any) -> Iterator[Any]:
    """The model as a candidate has it."""
    with (
        contextlib.nullcontext() if plan is None else tokenreduce.attach(model, plan) as handle,
        torch.inference_mode(),
    ):
        yield handle


def works(model: Any, inputs: dict[str, Any], tokens: int) -> dict[str, Callable[[Any], Iterator[Callable[[], Any]]]]:
    """What is timed: a context each, by what it is called."""

    def prefill(plan: Any) -> Iterator[Callable[[], Any]]:
        if isinstance(plan, int):
            text = torch.randint(5, 900, (len(inputs["input_ids"]), plan), device=inputs["input_ids"].device)
            with attached(model, None):
                yield lambda: model(input_ids=text, use_cache=True, logits_to_keep=1)
            return
        with attached(model, plan):
            features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
            yield lambda: model(
                input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features}, use_cache=True, logits_to_keep=1
            )

    def first_token(plan: Any) -> Iterator[Callable[[], Any]]:
        with attached(model, plan):
            yield lambda: model(**inputs, use_cache=True, logits_to_keep=1)

    def decode(plan: Any) -> Iterator[Callable[[], Any]]:
        with attached(model, plan):
            out = model(**inputs, use_cache=True, logits_to_keep=1)
            name = "cache" if "cache" in out else "past_key_values"
            step = out.logits.argmax(-1)

            def run() -> None:
                for _ in range(tokens):
                    model(input_ids=step, **{name: out[name]}, use_cache=True)

            yield run

    return {"prefill": prefill, "first token": first_token, "decode": decode}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 12), ("width", 1024), ("tower", 24), ("rounds", 9), ("batch", 1), ("tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--attention", default="sdpa", help="attn_implementation")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    model = llava(args.layers, args.width, args.tower).to(args.device, dtype)
    model.set_attn_implementation(args.attention)
    inputs = prompt(args.batch, args.device, dtype)
    facts: dict[str, Any] = {}
    for name, plan in CANDIDATES.items():
        with attached(model, plan) as handle:
            model(**inputs, use_cache=True)
            if handle is not None:
                last = handle.last
                facts[name] = {"macs": last.macs[1], "kv": last.kv_bytes[1], "image_tokens": last.mean_image_tokens}
    facts["plain"] = facts["none"]
    device = torch.device(args.device)
    rows: dict[str, dict[str, Any]] = {name: dict(facts[name]) for name in CANDIDATES}
    alone: dict[str, tuple[float, float]] = {}
    texts = {f"text {48 + n}": 48 + n for n in (576, 288, 144, 64)}
    for work, make in works(model, inputs, args.tokens).items():
        context = contextlib.contextmanager(make)
        plans = {**CANDIDATES, **(texts if work == "prefill" else {})}
        candidates = {name: (lambda plan=plan, context=context: context(plan)) for name, plan in plans.items()}
        *_, timing = interleave(candidates, baseline="none", rounds=args.rounds, device=device)
        assert timing is not None
        for name, t in timing.items():
            if name in texts:
                alone[name] = t.median, t.ratio
                continue
            pairs = zip(timing["plain"].seconds, t.seconds, strict=True)
            rows[name][work] = {
                "seconds": t.median / (args.tokens if work == "decode" else 1),
                "over none": t.ratio,
                "spread": t.spread,
                "over plain": statistics.median(p / s for p, s in pairs),
            }
    print(
        f"{'':<20}{'image tokens':>13}{'KV MiB':>8}{'prefill s':>11}{'over none':>16}{'MACs allow':>12}{'reached':>9}"
        f"{'first token s':>15}{'decode ms':>11}{'of plain':>10}"
    )
    for name, row in rows.items():
        allowed = rows["none"]["macs"] / row["macs"]
        p, f, d = row["prefill"], row["first token"], row["decode"]
        row["share of allowed"] = p["over none"] / allowed
        print(
            f"{name:<20}{row['image_tokens']:>13.4g}{row['kv'] / 2**20:>8.1f}{p['seconds']:>11.3f}"
            f"{p['over none']:>9.3f} ± {p['spread']:.3f}{allowed:>11.2f}x{100 * row['share of allowed']:>8.0f} %"
            f"{f['seconds']:>15.3f}{1e3 * d['seconds']:>11.1f}{d['over plain']:>10.3f}"
        )
    for name, (spent, ratio) in alone.items():
        print(f"{name:<20}{'':>21}{spent:>11.3f}{ratio:>9.3f}")
    print(f"prefill: none over plain {rows['none']['prefill']['over plain']:.3f}")
    if args.json:
        machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows, "text": alone}, indent=2) + "\n")


if __name__ == "__main__":
    main()
