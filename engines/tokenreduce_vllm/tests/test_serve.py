"""`vllm serve` on loopback, asked as OpenAI's clients ask; and a start that is refused."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from engine import NEW, QUESTIONS, Oracle, pictures
from tiny_models import llava

SETTINGS = {"reducer": "visionzip", "keep": 12}
PATIENCE = 900
"""Seconds until a server must be up: three processes import vLLM, on a machine that may be busy."""
VLLM = Path(sys.executable).parent / "vllm"
CHEAP = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8", "--block-size", "32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llava(tmp_path_factory.mktemp("llava"))


def command(folder: Path, settings: Any, port: int) -> list[str]:
    overrides = json.dumps({"tokenreduce": settings})
    where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
    return [str(VLLM), "serve", str(folder), "--hf-overrides", overrides, *where, *CHEAP]


def environment() -> dict[str, str]:
    return {**os.environ, "VLLM_LOGGING_LEVEL": "INFO", "no_proxy": "127.0.0.1"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """A server with fewer tokens; gives its address."""
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command(folder, SETTINGS, port), env=environment(), stdout=out, stderr=out)
        try:
            until = time.monotonic() + PATIENCE
            while not healthy(port):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < until, log.read_text()[-4000:]
                time.sleep(3)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def messages(question: str, picture: Any) -> list[dict[str, Any]]:
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


def post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_an_openai_style_request_is_answered_as_in_transformers(server, folder):
    oracle = Oracle(folder, SETTINGS)
    for question, picture in zip(QUESTIONS, pictures([(112, 112)] * 2), strict=True):
        for again in range(2):  # the second time the picture is in the cache
            said = post(
                server,
                {
                    "model": "tiny",
                    "messages": messages(question, picture),
                    "temperature": 0,
                    "max_tokens": NEW,
                    "logprobs": True,
                    "ignore_eos": True,
                    "return_tokens_as_token_ids": True,  # random weights write bytes that are no text
                },
            )
            wanted = oracle.answer(f"USER: <image>{question}ASSISTANT:", [picture])
            assert said["usage"]["prompt_tokens"] == wanted.prompt, again
            tokens = said["choices"][0]["logprobs"]["content"]
            assert [token["token"] for token in tokens] == [f"token_id:{token}" for token in wanted.tokens], again
            assert [token["logprob"] for token in tokens] == pytest.approx(wanted.logprobs, abs=1e-4), again


@pytest.mark.parametrize(
    ("settings", "words"), [({"reducer": "fastv"}, "one table of cache blocks"), ({"reducer": "e-adaprune"}, "keep=64")]
)
def test_a_start_that_is_refused_says_why(folder, settings, words):
    """Before weights are read."""
    done = subprocess.run(
        command(folder, settings, free_port()), env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert "Loading safetensors" not in done.stdout + done.stderr
