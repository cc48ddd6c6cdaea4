"""vLLM on this machine and the same model in transformers, asked the same questions.

vLLM runs in this process, so that several engines share one import.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np
import torch
import transformers
from PIL import Image

import tokenreduce

NEW = 8
QUESTIONS = ("what colour is the car ?", "how many dogs are there ?")


class Answer(NamedTuple):
    """New tokens, their log-probabilities, how long the prompt was, and how much of it was in the prefix cache."""

    tokens: list[int]
    logprobs: list[float]
    prompt: int
    cached: int = 0


def pictures(sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[Image.Image]:
    """Noise of these sizes."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


@contextmanager
def engine(folder: Path, settings: Any = None, **given: Any) -> Iterator[Any]:
    """vLLM with a model, reduced as ``settings`` say."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    options: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_seqs": 4,
        "gpu_memory_utilization": 0.3,
        "distributed_executor_backend": "uni",
        "limit_mm_per_prompt": {"image": 2},
        "hf_overrides": {} if settings is None else {"tokenreduce": settings},
        **given,
    }
    llm = LLM(model=str(folder), **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()  # a failed test keeps the object alive
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def ask(llm: Any, requests: Sequence[tuple[str, Any]]) -> list[Answer]:
    """What vLLM answers to (prompt, pictures), all at once."""
    from vllm import SamplingParams

    prompts = [
        {"prompt": text, "multi_modal_data": {"image": images}} if images else {"prompt": text}
        for text, images in requests
    ]
    sampling = SamplingParams(temperature=0, max_tokens=NEW, logprobs=1, ignore_eos=True)
    found = []
    for output in llm.generate(prompts, sampling, use_tqdm=False):
        one = output.outputs[0]
        tokens = list(one.token_ids)
        logprobs = [one.logprobs[i][token].logprob for i, token in enumerate(tokens)]
        found.append(Answer(tokens, logprobs, len(output.prompt_token_ids), output.num_cached_tokens))
    return found


class Oracle:
    """The model in transformers with the same reducer attached, positions compact as in vLLM where it can."""

    def __init__(self, folder: Path, settings: Any = None) -> None:
        auto = transformers.AutoModelForImageTextToText
        self.model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        self.handle = None
        if settings is not None:
            places = {"handover": settings} if "reducer" in settings else settings
            kind = type(self.model).__name__
            compact = not kind.startswith("Qwen") and ("handover" in places or kind == "LlavaForConditionalGeneration")
            self.handle = tokenreduce.attach(self.model, places, positions="compact" if compact else "original")

    @torch.no_grad()
    def answer(self, text: str, images: Any) -> Answer:
        """Greedy tokens of one request by itself."""
        inputs = self.processor(text=text, images=images or None, return_tensors="pt")
        out = self.model.generate(
            **inputs,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        start = inputs["input_ids"].shape[1]
        tokens = out.sequences[0, start:].tolist()
        logprobs = [float(row[0].log_softmax(-1)[token]) for row, token in zip(out.logits, tokens, strict=True)]
        return Answer(tokens, logprobs, start - self._gone(images))

    def _gone(self, images: Any) -> int:
        """How many tokens of the last prompt went before the first layer."""
        if not images or self.handle is None:
            return 0
        return sum(site.tokens_in - site.tokens_out for site in self._sites())

    def _sites(self) -> Any:
        assert self.handle is not None
        stacks = self.handle.last.stacks
        return stacks["handover"].sites if "handover" in stacks else []
