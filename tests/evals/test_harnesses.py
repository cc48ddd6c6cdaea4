"""lm-eval and lmms-eval run a task of six pictures on a tiny language model with a reducer attached."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import tokenreduce
from tokenreduce.lab.comparison import compare
from tokenreduce.lab.sample_logs import read_logs

pytestmark = pytest.mark.sweep
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
REDUCER = {"reducer": "divprune", "keep": 4}
PYTHON = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
import tokenreduce_evals.lm_eval

model, tasks = sys.argv[1:3]
made = {}
for name, more in (("hf-multimodal", {}), ("tokenreduce", {}), ("tokenreduce", {"reducer": "tome", "r": 3})):
    given = {"pretrained": model, "dtype": "float32", "max_length": 256, **more}
    found = lm_eval.simple_evaluate(
        model=name, model_args=given, device="cpu", batch_size=2, tasks=["colours"], bootstrap_iters=0,
        task_manager=TaskManager(include_path=tasks),
    )
    made[" ".join([name, *map(str, more.values())])] = [one["resps"][0][0] for one in found["samples"]["colours"]]
print(json.dumps(made))
"""


@pytest.fixture
def answers(bench):
    """What the model writes with a reducer attached, asked directly."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(bench.model)
    model = AutoModelForImageTextToText.from_pretrained(bench.model, dtype=torch.float32).eval()

    def ask(prompt_of, **reducer):
        said = []
        with tokenreduce.attach(model, **reducer):
            for record in bench.records:
                prompt = prompt_of(processor, record["question"])
                inputs = processor(text=prompt, images=Image.open(record["image"]), return_tensors="pt")
                with torch.inference_mode():
                    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
                new = output[0, inputs["input_ids"].shape[1] :]
                said.append(processor.decode(new, skip_special_tokens=True))
        return said

    return ask


def plain(processor, question):
    return f"USER: <image> {question} ASSISTANT:"


def chat(processor, question):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def logged(folder):
    (log,) = folder.glob("*/*samples_colours*.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_lm_eval(bench, python, tmp_path, answers):
    args = f"pretrained={bench.model},dtype=float32,max_length=256,reducer=divprune,keep=4"
    command = ["-m", "tokenreduce_evals", "run", "--model", "tokenreduce", "--model_args", args, "--device", "cpu"]
    more = ["--tasks", "colours", "--include_path", bench.lm, "--batch_size", "2", "--log_samples"]
    done = python(*command, *more, "--output_path", tmp_path, timeout=900, **OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["filtered_resps"][0] for one in logged(tmp_path)] == answers(plain, **REDUCER)
    result = read_logs(tmp_path)
    assert [(row.name, len(row.scores), row.tokens) for row in result.rows] == [("colours: exact_match", 6, 4)]
    assert result.setup["tokenreduce"]["image_tokens"] == 36
    (change,) = compare(result, result)
    assert (change.p, change.test) == (1.0, "exact McNemar")


def test_lm_eval_from_python(bench, python, answers):
    done = python("-c", PYTHON, bench.model, bench.lm, timeout=900, **OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["tokenreduce"] == made["hf-multimodal"] == answers(plain, reducer="none")
    assert made["tokenreduce tome 3"] == answers(plain, reducer="tome", r=3)


def test_lmms_eval(bench, python, tmp_path, answers):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"handover": REDUCER}))
    args = f"pretrained={bench.model},dtype=float32,device=cpu,reducer={plan}"
    command = ["-m", "lmms_eval", "--model", "tokenreduce_hf", "--model_args", args, "--tasks", "colours"]
    more = ["--include_path", bench.lmms, "--batch_size", "2", "--log_samples", "--output_path", tmp_path / "out"]
    done = python(*command, *more, timeout=900, **OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["filtered_resps"] for one in logged(tmp_path / "out")] == answers(chat, **REDUCER)
    assert [(row.name, len(row.scores), row.tokens) for row in read_logs(tmp_path / "out").rows] == [
        ("colours: exact_match", 6, 4)
    ]


def test_mmmu_is_scored_as_lmms_eval_does(python):
    code = """
import json
from lmms_eval.tasks.mmmu.utils import evaluate_mmmu, parse_open_response
from tokenreduce.lab.logged_scores import score_of
right = ["A", "3,000", "0.333", "x", "Tree", ["12", "twelve"], "-5", "1e3"]
said = ["A", "The answer is 3000.", "so it is 0.33", "fox x", "a tree.", "It is 12 of them", "x = -5", "it is 1e3", ""]
for answer in right:
    for text in said:
        for kind, given in (("multiple-choice", text), ("open", parse_open_response(text))):
            sample = {"id": "a", "question_type": kind, "answer": answer, "parsed_pred": [given]}
            logged = json.loads(json.dumps(sample))
            assert score_of(logged) == evaluate_mmmu([sample])[1]["acc"], sample
"""
    done = python("-c", code, timeout=600, **OFFLINE)
    assert done.returncode == 0, done.stderr


def test_an_argument_that_nobody_has(bench, python):
    code = (
        "import sys; from tokenreduce_evals.lmms_eval import TokenReduceHF; "
        "TokenReduceHF(sys.argv[1], reducer='divprune', keeep=4, device='cpu')"
    )
    done = python("-c", code, bench.model, timeout=600, **OFFLINE)
    assert "neither the model nor the reducer 'divprune' has an argument keeep" in done.stderr
