"""Throughput and time to first token of vLLM at several concurrent requests, plain against fewer tokens per image.

    python benchmark.py [--rounds 5] [--concurrent 8] [--keep 64] [--reducer divprune]

Random weights, LLaVA's 576 image tokens. The engines are built in turns and each is asked the same questions about new
pictures, so that what else the machine does falls on both; medians over the rounds, and their ratio. vLLM runs in this
process: its CPU seconds are told beside the wall's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "tests"))

from engine import QUESTIONS, engine, pictures
from tiny_models import large_llava


class Measured(NamedTuple):
    """Of one batch of requests: seconds on the wall, of the CPU, until the first token of a request (mean)."""

    wall: float
    cpu: float
    first: float
    prompt: int


def once(llm: Any, concurrent: int, new: int, seed: int) -> Measured:
    """Ask that many questions at once, each about a picture of its own."""
    from vllm import SamplingParams

    requests = [
        {"prompt": f"USER: <image>\n{QUESTIONS[i % 2]} ASSISTANT:", "multi_modal_data": {"image": [picture]}}
        for i, picture in enumerate(pictures([(336, 336)] * concurrent, seed))
    ]
    sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    wall, cpu = time.perf_counter(), time.process_time()
    outputs = llm.generate(requests, sampling, use_tqdm=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    waited = [one.metrics.first_token_latency for one in outputs]
    return Measured(wall, cpu, statistics.mean(waited), len(outputs[0].prompt_token_ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--new", type=int, default=16, help="tokens of each answer")
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--reducer", default="divprune")
    asked = parser.parse_args()
    rows: dict[str, Any] = {"plain": None, asked.reducer: {"reducer": asked.reducer, "keep": asked.keep}}
    found: dict[str, list[Measured]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        model = large_llava(Path(folder))
        for number in range(asked.rounds):
            for name, settings in rows.items():
                given = {"max_num_seqs": asked.concurrent, "max_model_len": 1024, "max_num_batched_tokens": 8192}
                with engine(model, settings, disable_log_stats=False, **given) as llm:
                    once(llm, 2, asked.new, 1000 + number)  # warm-up
                    found[name].append(once(llm, asked.concurrent, asked.new, number))
                print(number, name, found[name][-1], flush=True)
    medians = {
        name: [statistics.median(values) for values in zip(*rows_, strict=True)] for name, rows_ in found.items()
    }
    print(f"\n{asked.concurrent} requests at once, {asked.new} new tokens each, medians of {asked.rounds} rounds")
    print("| | prompt | requests a second | CPU seconds a request | time to first token, s |\n|---|---|---|---|---|")
    for name, (wall, cpu, first, prompt) in medians.items():
        print(f"| {name} | {prompt:.0f} | {asked.concurrent / wall:.2f} | {cpu / asked.concurrent:.2f} | {first:.2f} |")
    (wall, cpu, first, _), (few_wall, few_cpu, few_first, _) = medians.values()
    print(f"| ratio | | {wall / few_wall:.2f} | {cpu / few_cpu:.2f} | {first / few_first:.2f} |")


if __name__ == "__main__":
    main()
