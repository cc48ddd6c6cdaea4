"""A checkpoint of a tiny language model with images, and one task on six pictures for each of two harnesses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

QUESTIONS = ["what colour is the ball ?", "is it red ?", "where ?"]
LM_EVAL = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_image: !function utils.pictures
doc_to_text: !function utils.prompt
doc_to_target: answer
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4, do_sample: false, temperature: 0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
LMMS_EVAL = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.question
doc_to_target: answer
process_results: !function utils.results
generation_kwargs: {{max_new_tokens: 4, temperature: 0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
UTILS = """
from PIL import Image


def pictures(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def prompt(doc):
    return "USER: <image> " + doc["question"] + " ASSISTANT:"


def results(doc, answers):
    return {"exact_match": float(answers[0].strip() == doc["answer"])}
"""


@dataclass(frozen=True)
class Bench:
    """Folders of a checkpoint, of tasks for lm-eval and lmms-eval, and the records of the task."""

    model: Path
    lm: Path
    lmms: Path
    records: list[dict[str, Any]]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    import numpy as np
    from PIL import Image

    from ..loaders import lvlms

    folder = tmp_path_factory.mktemp("bench")
    lvlms.write("llava", folder / "model")
    rng, records = np.random.default_rng(0), []
    for index in range(6):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
        records.append({"image": str(path), "question": QUESTIONS[index % 3], "answer": ["red", "two"][index % 2]})
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, task in (("lm", LM_EVAL), ("lmms", LMMS_EVAL)):
        (folder / name).mkdir()
        (folder / name / "colours.yaml").write_text(task.format(folder=folder))
        (folder / name / "utils.py").write_text(UTILS)
    return Bench(folder / "model", folder / "lm", folder / "lmms", records)
