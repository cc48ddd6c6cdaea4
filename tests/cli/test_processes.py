"""Ablations on several processes, and ablations that are killed: the numbers are those of one undisturbed process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.sweep
Run = Callable[..., subprocess.CompletedProcess[str]]
ARGS = ["--model", "clip-digits", "--samples", "20", "--batch", "4", "--reducers", "tome,random", "--ratios", "0.5"]
QUICK = [*ARGS, "--seeds", "2", "--rounds", "1", "--batch-sizes", "4", "--no-break-even"]
SAME = ("name", "scores", "accuracy", "accuracy_by_seed", "interval", "options", "macs", "tokens", "groups", "verdict")
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node=2", "--master-port=29511"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
                   "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=29512"],
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The rows of one process."""
    folder = tmp_path_factory.mktemp("alone")
    out = folder / "result.json"
    done = run("ablate", *QUICK, "--json", out, "--store", folder / "s")
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())["rows"]


def same(rows: list[dict], others: list[dict]) -> None:
    assert [row["failed"] for row in rows] == [None] * len(rows)
    for row, other in zip(rows, others, strict=True):
        assert {key: row[key] for key in SAME} == {key: other[key] for key in SAME}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_give_the_numbers_of_one(python: Run, alone: list[dict], tmp_path: Path, launcher: str) -> None:
    out = tmp_path / "result.json"
    command = ["-m", *LAUNCHERS[launcher], "-m", "tokenreduce", "ablate", *QUICK]
    done = python(*command, "--json", out, "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    titles = [line.strip() for line in done.stdout.splitlines()]
    assert titles.count("cost (memory of a batch of 4)") == titles.count(f"written: {out}") == 1  # one process speaks
    document = json.loads(out.read_text())
    same(document["rows"], alone)
    assert document["setup"]["processes"] == 2


def test_a_killed_run_continues_where_it_stopped(run: Run, alone: list[dict], tmp_path: Path) -> None:
    out, store = tmp_path / "result.json", tmp_path / "store"
    command = ["ablate", *QUICK, "--json", str(out), "--store", str(store)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenreduce", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and len(list(store.rglob("*.json"))) < 5:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(store.rglob("*.json")))
    assert kept >= 5 and not out.exists()
    torn = next(iter(sorted(store.rglob("*.json"))))
    torn.write_text(torn.read_text()[:20])  # as if the disk had been full
    done = run(*command)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    same(document["rows"], alone)
    cells = document["setup"]["cells"]
    assert cells["kept"] >= kept - 1 and cells["worked out"] > 0


def test_parts_of_a_job_array(run: Run, alone: list[dict], tmp_path: Path) -> None:
    store, out = tmp_path / "shared", tmp_path / "result.json"
    for number in (1, 2):
        done = run("ablate", *QUICK, "--part", f"{number}/2", "--store", store)
        assert done.returncode == 0, done.stderr
        assert f"part {number}/2: " in done.stdout and "the same command without --part" in done.stdout
    done = run("ablate", *QUICK, "--no-time", "--store", store, "--json", out)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    same(document["rows"], alone)
    assert document["setup"]["cells"]["worked out"] == 0 and not any(row["paces"] for row in document["rows"])


def test_processes_wait_longer_than_torch_would(python: Run) -> None:
    code = (
        "import torch; from tokenreduce.lab.distributed import PATIENCE, process_group; crew = process_group(); "
        "group = torch.distributed.group.WORLD; device = torch.device('cpu'); "
        "assert group._get_backend(device).options._timeout == PATIENCE, group._get_backend(device).options._timeout; "
        "assert crew.gather(crew.rank) == [0, 1]; torch.distributed.destroy_process_group()"
    )
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29513", "--no-python"]
    done = python(*command, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
