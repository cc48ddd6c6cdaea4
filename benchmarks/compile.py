"""How long the first calls of a compiled model take, for every training-free method that a ViT can feed.

    python benchmarks/compile.py [--model vit_tiny_patch16_224] [--depth 12] [--size 224] [--batch 2,3,5]
                                 [--reducers tome:r=16 evit] [--backend inductor] [--json FILE] [--markdown FILE]

Each method is attached, the model is compiled as one graph (``fullgraph=True``), and called with the batch sizes in
turn. The first call compiles it for one batch size, the second for all of them; the third shows that nothing is
compiled again. ``plain`` is the model without tokenreduce, compiled the same way. Caches of earlier runs are not used.
The output is compared with that of the eager model. What other processes do is in these times: see the load.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import rounds as shared
import timm
import torch
from speed import parsed
from torch import nn
from torch._dynamo.utils import counters

import tokenreduce
from tokenreduce.errors import TokenReduceError


def feeds(model: nn.Module, options: dict[str, Any]) -> bool:
    """Whether a training-free method runs on the model."""
    try:
        with tokenreduce.attach(model, **options) as handle:
            return not any(isinstance(one.reducer, nn.Module) for one in handle.stacks.values())
    except TokenReduceError:
        return False


def measure(label: str, model: nn.Module, size: int, batches: list[int], backend: str) -> dict[str, Any]:
    """The calls of one compiled model."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    found: dict[str, Any] = {"reducer": label, "calls": [], "graphs": [], "difference": 0.0, "load": os.getloadavg()[0]}
    for batch in batches:
        x = torch.randn(batch, 3, size, size)
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        begin = time.perf_counter()
        got = compiled(x)
        found["calls"].append(time.perf_counter() - begin)
        found["graphs"].append(int(counters["stats"]["unique_graphs"]))
        found["difference"] = max(found["difference"], float((got - expected).abs().max()))
    print(
        f"{label:<14}" + "".join(f"{seconds:>9.1f} s" for seconds in found["calls"]) + f"   graphs {found['graphs']}"
        f"   largest difference to eager {found['difference']:.1e}   load {found['load']:.1f}",
        flush=True,
    )
    return found


def table(rows: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The rows as Markdown, with the machine in front."""
    facts = shared.machine()
    loads = [row["load"] for row in rows]
    titles = [f"call {number}, batch {batch}" for number, batch in enumerate(given.batch, 1)]
    lines = [
        f"{facts['processor']}, {facts['threads']} threads of {facts['cores']} cores (load {min(loads):.1f} to "
        f"{max(loads):.1f}); torch {facts['torch']}, {given.backend}; {given.model}, {given.depth} blocks, "
        f"{given.size} px; seconds.",
        "",
        f"| reducer | {' | '.join(titles)} | graphs |",
        f"|---|{'---:|' * (len(titles) + 1)}",
    ]
    for row in rows:
        calls = " | ".join(f"{seconds:.1f}" for seconds in row["calls"])
        lines.append(f"| {row['reducer']} | {calls} | {row['graphs'][-1]} |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="a ViT of timm")
    parser.add_argument("--depth", type=int, default=12, help="blocks")
    parser.add_argument("--size", type=int, default=224, help="of the pictures, in pixels")
    parser.add_argument("--batch", default="2,3,5", type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--reducers", nargs="+", help="NAME:OPTION=VALUE:..., instead of all")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def main() -> None:
    """Parse and run."""
    given = arguments()
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    torch.manual_seed(0)
    model = timm.create_model(given.model, img_size=given.size, depth=given.depth).eval()
    asked = {text: parsed(text) for text in given.reducers or tokenreduce.registry.default_registry().reducers}
    print(f"{'':<14}" + "".join(f"{f'batch {batch}':>11}" for batch in given.batch))
    with torch.no_grad():
        rows = [measure("plain", model, given.size, given.batch, given.backend)]
        for label, options in asked.items():
            if feeds(model, options):
                copied = shared.twin(model)
                tokenreduce.attach(copied, **options)
                rows.append(measure(label, copied, given.size, given.batch, given.backend))
    shared.write(given.json, rows)
    if given.markdown:
        given.markdown.write_text(table(rows, given))


if __name__ == "__main__":
    main()
