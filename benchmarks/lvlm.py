"""Prefill, time to first token, decode and cache of a random LLaVA, against what the multiply-adds allow.

    python benchmarks/lvlm.py [--layers 12] [--width 1024] [--rounds 9] [--batch 1] [--device cpu] [--dtype float32]
                              [--json FILE] [--markdown FILE]

The tower is CLIP ViT-L/14's shape at 336 px with ``--tower`` of its layers: 576 image tokens. Every round runs every
candidate once, in alternating order, in one process, on copies that share their weights; rounds that other processes
disturbed are dropped (``rounds.py``). ``plain`` is the library's own model, ``none`` the attached one
with no cut. Prefill is the language model alone (image features computed before), on 576 image and 48 text tokens;
time to first token includes the tower; decode is the mean of ``--tokens`` steps after it. "Reached" is the speed-up of
the prefill over ``none`` divided by the one that multiply-adds allow. ``text N`` is the plain model on N tokens of text
alone: what a prompt of that length costs, which small matrices make more than its share.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import rounds as shared
import torch
import transformers

import tokenreduce

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
TEXTS = {f"text {48 + n}": 48 + n for n in (576, 288, 144, 64)}


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


def candidates(model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A copy of the model by candidate, and what each pass of it costs by count."""
    models: dict[str, Any] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, plan in CANDIDATES.items():
        models[name] = shared.twin(model)
        if plan is not None:
            handle = tokenreduce.attach(models[name], plan)
            models[name](**inputs, use_cache=True)
            last: Any = handle.last
            facts[name] = {"macs": last.macs[1], "kv": last.kv_bytes[1], "image_tokens": last.mean_image_tokens}
    return models, {"plain": facts["none"], **facts}


def works(models: dict[str, Any], inputs: dict[str, Any], tokens: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is timed: functions by candidate, by what they do."""

    def prefill(model: Any) -> Callable[[], Any]:
        features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
        given = {"mm_encoder_outputs": {"image": features}, "use_cache": True, "logits_to_keep": 1}
        return lambda: model(input_ids=inputs["input_ids"], **given)

    def text(count: int) -> Callable[[], Any]:
        ids = torch.randint(5, 900, (len(inputs["input_ids"]), count), device=inputs["input_ids"].device)
        return lambda: models["plain"](input_ids=ids, use_cache=True, logits_to_keep=1)

    def first_token(model: Any) -> Callable[[], Any]:
        return lambda: model(**inputs, use_cache=True, logits_to_keep=1)

    def decode(model: Any) -> Callable[[], Any]:
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        name = "cache" if "cache" in out else "past_key_values"
        step = out.logits.argmax(-1)

        def run() -> None:
            for _ in range(tokens):
                model(input_ids=step, **{name: out[name]}, use_cache=True)

        return run

    return {
        "prefill": {
            **{name: prefill(model) for name, model in models.items()},
            **{n: text(c) for n, c in TEXTS.items()},
        },
        "first token": {name: first_token(model) for name, model in models.items()},
        "decode": {name: decode(model) for name, model in models.items()},
    }


def table(rows: dict[str, dict[str, Any]], alone: dict[str, tuple[float, float]]) -> str:
    """The rows as Markdown."""
    titles = ["", "image tokens", "KV MiB", "prefill s", "over none", "MACs allow", "reached", "first token s"]
    lines = []
    for name, row in rows.items():
        p, f, d = row["prefill"], row["first token"], row["decode"]
        cells = [f"{row['image_tokens']:.4g}", f"{row['kv'] / 2**20:.1f}", f"{p['seconds']:.3f}"]
        cells += [f"{p['over none']:.3f} ± {p['spread']:.3f}", f"{row['allowed']:.2f}"]
        cells += [f"{100 * row['share of allowed']:.0f} %", f"{f['seconds']:.3f}"]
        lines.append([name, *cells, f"{1e3 * d['seconds']:.1f}", f"{d['over plain']:.3f}"])
    for name, (spent, ratio) in alone.items():
        lines.append([name, "", "", f"{spent:.3f}", f"{ratio:.3f}", *[""] * 5])
    return shared.markdown([*titles, "decode ms", "decode of plain"], lines)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 12), ("width", 1024), ("tower", 24), ("batch", 1), ("tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--attention", default="sdpa", help="attn_implementation")
    shared.add_options(parser)
    args = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    model = llava(args.layers, args.width, args.tower).to(args.device, dtype)
    model.set_attn_implementation(args.attention)
    inputs = prompt(args.batch, args.device, dtype)
    rows: dict[str, dict[str, Any]]
    timed: dict[str, shared.Rounds] = {}
    with torch.inference_mode():
        models, rows = candidates(model, inputs)
        for work, functions in works(models, inputs, args.tokens).items():
            given: dict[str, Any] = {"foreign": args.foreign, "longest": args.longest}
            timed[work] = shared.run(functions, args.rounds, device=torch.device(args.device), **given)
    for work, made in timed.items():
        for name in CANDIDATES:
            ratio, spread = made.speedup("none", name)
            steps = args.tokens if work == "decode" else 1
            rows[name] = {**rows[name], work: {"seconds": made.median(name) / steps, "over none": ratio}}
            rows[name][work] |= {"spread": spread, "over plain": made.speedup("plain", name)[0]}
            rows[name][work] |= {"rounds": len(made.seconds[name]), "dropped": made.dropped, "quiet": made.quiet}
    for row in rows.values():
        row["allowed"] = rows["none"]["macs"] / row["macs"]
        row["share of allowed"] = row["prefill"]["over none"] / row["allowed"]
    alone = {name: (timed["prefill"].median(name), timed["prefill"].speedup("none", name)[0]) for name in TEXTS}
    text = f"{shared.described(args.dtype, args.device, timed['prefill'])}\n\n{table(rows, alone)}"
    print(text)
    shared.write(args.json, rows, text=alone)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
