"""A model of lmms-eval: ``--model tokenreduce_hf --model_args pretrained=...,reducer=divprune,keep=64``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from tokenreduce.errors import OptionError, UnsupportedCallError

from .model_args import attach_reducer, split
from .tokens import TokenCount

ARGUMENTS = "pretrained, reducer, device, device_map, dtype, batch_size, revision, attn_implementation, system_prompt"


class TokenReduceHF(lmms):
    """Any ``...ForConditionalGeneration`` with images of transformers, with a reducer attached.

    Args:
        pretrained: a hub id or a folder.
        reducer: a name, a folder that ``handle.save`` wrote, or a JSON file with a reducer per stack.
        device: where the model is put; with several processes each takes its own.
        device_map: given to ``from_pretrained`` in place of ``device``.
        dtype: ``"auto"`` for the checkpoint's, or the name of one of torch.
        batch_size: samples in a batch.
        revision, attn_implementation: given to ``from_pretrained``.
        system_prompt: text, or a file with it, put before every prompt.
        trust: import reducers that are named by their module.
        **kwargs: options of the reducer, ``layers`` (``1+5+8``), ``unit`` and ``positions`` among them.

    Raises:
        OptionError: an argument that is neither the model's nor the reducer's.

    And what :func:`tokenreduce.attach` raises.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        reducer: Any = "none",
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        revision: str = "main",
        attn_implementation: str | None = None,
        system_prompt: str | None = None,
        trust: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        options, unknown = split(kwargs, reducer, trust)
        if unknown:
            raise OptionError(
                f"neither the model nor the reducer {reducer!r} has an argument {', '.join(unknown)}; the model has "
                f"{ARGUMENTS}, and 'tokenreduce info {reducer}' lists the reducer's"
            )
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if device is None or self.world_size > 1:
            device = str(self.accelerator.device)
        self.batch_size = int(batch_size)
        self.system_prompt = self._resolve_system_prompt(system_prompt) if system_prompt else None
        self.processor = AutoProcessor.from_pretrained(pretrained, revision=revision)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.model = AutoModelForImageTextToText.from_pretrained(
            pretrained,
            revision=revision,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map=device_map or device,
            attn_implementation=attn_implementation,
        ).eval()
        self.handle = attach_reducer(self.model, reducer, options, trust)
        self.count = TokenCount(self.handle)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        found: torch.device = self.model.get_input_embeddings().weight.device
        return found

    def generate_until(self, requests: list[Any]) -> list[GenerationResult]:
        """Answers to prompts with images, batch by batch."""
        order = Collator([one.args for one in requests], lambda one: one[3], group_fn=lambda one: one[2], grouping=True)
        answers: list[GenerationResult] = []
        seconds, written = 0.0, 0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="tokenreduce") as bar:
            for chunk in order.get_batched(n=self.batch_size, batch_fn=None):
                texts, images = self._prompts(chunk)
                started = time.perf_counter()
                found = self._answer(texts, images, chunk[0][2])
                seconds += time.perf_counter() - started
                for text, answer in zip(texts, found, strict=True):
                    self.cache_hook.add_partial("generate_until", (text, chunk[0][2]), answer.text)
                    written += answer.token_counts.output_tokens
                answers += found
                bar.update(len(found))
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=written,
            avg_speed=written / seconds if seconds else 0.0,
            additional_metrics={"rank": self.rank, **self.count.summary()},
        )
        return list(order.get_original(answers))

    def _prompts(self, chunk: Sequence[tuple[Any, ...]]) -> tuple[list[str], list[list[Any]]]:
        """Prompts in the checkpoint's chat template, and the images of each."""
        texts, images = [], []
        for _, messages_of, _, number, task, split_ in chunk:
            messages = messages_of(self.task_dict[task][split_][number])
            if self.system_prompt:
                messages = self._apply_system_prompt(messages, self.system_prompt)
            chat = ChatMessages(messages=messages)
            pictures, videos, audios = chat.extract_media()
            if videos or audios:
                raise UnsupportedCallError(f"the task {task} has videos or sounds; tokenreduce_hf takes images alone")
            template = self.processor.apply_chat_template
            texts.append(template(chat.to_hf_messages(), tokenize=False, add_generation_prompt=True))
            images.append(pictures)
        return texts, images

    @torch.inference_mode()
    def _answer(self, texts: list[str], images: list[list[Any]], asked: Mapping[str, Any]) -> list[GenerationResult]:
        pictures = images if any(images) else None
        inputs = self.processor(text=texts, images=pictures, padding=True, return_tensors="pt")
        inputs = inputs.to(self.device, self.model.dtype)
        output = self.model.generate(**inputs, **generation(asked), pad_token_id=self.tokenizer.pad_token_id)
        if pictures is not None:
            self.count.add(len(texts))
        new = output[:, inputs["input_ids"].shape[1] :]
        said = self.processor.batch_decode(new, skip_special_tokens=True)
        stops = asked.get("until") or []
        counts = (new != self.tokenizer.pad_token_id).sum(dim=1).tolist()
        return [
            GenerationResult(text=cut(text, [stops] if isinstance(stops, str) else stops), token_counts=made)
            for text, made in zip(said, (TokenCounts(output_tokens=count) for count in counts), strict=True)
        ]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refused: a choice is asked for by ``generate_until``."""
        raise UnsupportedCallError(
            "tokenreduce_hf answers by generate_until; the task asks for log-likelihoods of choices, for which lm-eval "
            "and its text tasks are the place"
        )

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refused: one round."""
        raise UnsupportedCallError("tokenreduce_hf answers in one round; the task asks for several")


def generation(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate`` from those of a task; greedy at a temperature of 0, which is the default."""
    warm = bool(asked.get("do_sample", True)) and float(asked.get("temperature") or 0) > 0
    sampling = {name: asked.get(name) for name in ("temperature", "top_p")} if warm else {}
    length = asked.get("max_new_tokens") or 1024
    return {"do_sample": warm, "num_beams": asked.get("num_beams") or 1, "max_new_tokens": length, **sampling}


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the words that end it."""
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text
