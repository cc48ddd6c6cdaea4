"""What choosing tokens at the hand-over costs, as a share of the prefill that it saves.

    python benchmarks/selection.py [--keep 64] [--rounds 7] [--width 1024,4096] [--dtype float32,bfloat16]
                                   [--json FILE] [--markdown FILE]

576 tokens of one image, 48 of text. One decoder layer of each width is timed with all tokens and with those that stay;
24 layers of width 1024, 32 of width 4096 save that many times the difference. A method is timed with its signals, made
of queries and keys of a CLIP ViT-L/14's layer, its choice, and its reduction of the projected tokens. Every round runs
everything in turn, in alternating order; shares are medians over the rounds. Times are CPU seconds of this process,
which others on the machine change little. A share of 3 % and more is marked.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rounds as shared
import torch
import transformers
from torch import nn

from tokenreduce.core.signals import SeenAttention, Signals
from tokenreduce.core.streams import Stream, Streams
from tokenreduce.core.tokens import Tokens
from tokenreduce.methods import Backbone, make
from tokenreduce.ops import text_cosines
from tokenreduce.testing import site

IMAGE, TEXT, TOWER, HEADS = 576, 48, 1024, 16
LAYERS = {1024: 24, 4096: 32}
LIMIT = 0.03


def candidates(keep: int) -> dict[str, Any]:
    """What to time, by what it is called; all keep the same number."""
    bounds = {"min_keep": keep, "max_keep": keep}
    return {
        **{name: {"reducer": name, "keep": keep} for name in ("random", "uniform", "pooling", "fopru")},
        "fopru, softmax": {"reducer": "fopru", "keep": keep, "scores": "softmax"},
        **{name: {"reducer": name, "keep": keep} for name in ("svd-prune", "divprune", "scope", "vispruner")},
        "cdpruner": {"reducer": "cdpruner", "keep": keep},
        "cdpruner, no text": {"reducer": "cdpruner", "keep": keep, "relevance": "none"},
        "visionzip": {"reducer": "visionzip", "keep": keep},
        "e-adaprune": {"reducer": "e-adaprune", **bounds},
        "e-adaprune, svd-prune": {"reducer": "e-adaprune", "selector": "svd-prune", **bounds},
        "e-adaprune, randomised": {"reducer": "e-adaprune", "spectrum": "randomised", **bounds},
    }


class Image:
    """One image at the hand-over to a language model of a width."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        low = torch.randn(1, IMAGE, 48) @ torch.randn(48, TOWER)
        self.features = (low / 7 + 0.3 * torch.randn(1, IMAGE, TOWER)).to(dtype)
        self.project = nn.Sequential(nn.Linear(TOWER, width), nn.GELU(), nn.Linear(width, width)).to(dtype)
        self.space = nn.Sequential(nn.LayerNorm(TOWER), nn.Linear(TOWER, 768, bias=False)).to(dtype)
        self.text = torch.randn(1, 1, 768)
        self.own = torch.randn(1, 1, TOWER).to(dtype)
        self.query, self.key = torch.randn(2, 1, HEADS, IMAGE + 1, TOWER // HEADS).to(dtype).unbind(0)
        self.x = self.project(self.features)

    def signals(self) -> dict[str, Callable[[], Any]]:
        """Everything that a hand-over gives, made when it is read."""
        attention = SeenAttention(self.query, self.key, readout=0, has_class_token=True, mutual=True)
        return {
            **attention.sources(slice(1, IMAGE + 1)),
            "encoder_features": lambda: self.features,
            "class_features": lambda: self.own,
            "projector": lambda: self.project,
            "text_cosine": lambda: text_cosines(self.space, self.features, self.text),
        }

    def chooser(self, options: dict[str, Any]) -> Callable[[], Any]:
        """A method's whole work on the image."""
        given = frozenset(self.signals())
        backbone = Backbone("handover", 1, ("image",), given, False, "LLaVA", sites=1, width=self.x.shape[-1])
        active = make(options).bind(backbone)

        def work() -> Any:
            signals = Signals(self.signals(), frozenset(active.needs))
            stream = Stream(Tokens(self.x), signals, False, initial=IMAGE)
            reduction: Any = active.reduce_streams(Streams({"image": stream}, "image"), site())["image"]
            return reduction.apply(self.x)

        return work


def layer(width: int, dtype: torch.dtype) -> nn.Module:
    """A language model of one decoder layer."""
    config = transformers.LlamaConfig(
        vocab_size=8,
        hidden_size=width,
        intermediate_size=width * 11008 // 4096,
        num_hidden_layers=1,
        num_attention_heads=width // 128,
    )
    model: nn.Module = transformers.LlamaModel(config).eval().to(dtype)
    return model


def bench(width: int, dtype: torch.dtype, keep: int, rounds: int, longest: float) -> dict[str, Any]:
    """All candidates at one width."""
    torch.manual_seed(0)
    model, image = layer(width, dtype), Image(width, dtype)
    tokens = {name: torch.randn(1, TEXT + n, width).to(dtype) for name, n in (("all", IMAGE), ("left", keep))}
    works: dict[str, Callable[[], object]] = {
        name: lambda x=x: model(inputs_embeds=x, use_cache=False)  # type: ignore[misc]
        for name, x in tokens.items()
    }
    works |= {name: image.chooser(options) for name, options in candidates(keep).items()}
    with torch.inference_mode():
        made = shared.run(works, rounds, clock="cpu", least=0.05, longest=longest)
    saved = [LAYERS[width] * (one - left) for one, left in zip(made.seconds["all"], made.seconds["left"], strict=True)]
    kind = str(dtype).removeprefix("torch.")
    print(f"width {width}, {LAYERS[width]} layers, {kind}: {statistics.median(saved):.3g} s of prefill saved")
    rows = {}
    for name in candidates(keep):
        share = statistics.median(own / s for own, s in zip(made.seconds[name], saved, strict=True))
        rows[name] = {"seconds": made.median(name), "share": share}
        mark = "   too much" if share >= LIMIT else ""
        print(f"  {name:<24}{1e3 * made.median(name):>9.2f} ms{100 * share:>8.2f} %{mark}")
    return {"width": width, "dtype": kind, "saved": statistics.median(saved), "rounds": len(saved), "methods": rows}


def table(found: list[dict[str, Any]]) -> str:
    """Shares of the prefill that is saved, as Markdown."""
    titles = ["method", *(f"width {one['width']}, {one['dtype']}" for one in found)]
    rows = []
    for name in found[0]["methods"]:
        cells = [one["methods"][name] for one in found]
        rows.append([name, *(f"{1e3 * cell['seconds']:.2f} ms, {100 * cell['share']:.2f} %" for cell in cells)])
    return shared.markdown(titles, rows)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--width", default="1024,4096")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--longest", type=float, default=math.inf, help="seconds of rounds per width and type")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    found = [
        bench(int(width), getattr(torch, dtype), given.keep, given.rounds, given.longest)
        for width in given.width.split(",")
        for dtype in given.dtype.split(",")
    ]
    shared.write(given.json, found, keep=given.keep)
    if given.markdown:
        about = shared.described(given.dtype, "cpu").removesuffix(".")
        clock = f"processor time, medians of {given.rounds} interleaved rounds at most; {given.keep} tokens stay"
        given.markdown.write_text(f"{about}; {clock}.\n\n{table(found)}")


if __name__ == "__main__":
    main()
