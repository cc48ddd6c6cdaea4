"""Training on two processes, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "worker.py"
JOBS = ["ddp/dynamicvit", "ddp/pumer", "fsdp/dynamicvit", "fsdp/tome", "fsdp1/dynamicvit", "accelerate/dynamicvit",
        "trainer/dynamicvit", "trainer/pumer", "taught-ddp/pumer", "taught-ddp/dynamicvit", "taught-fsdp/pumer",
        "taught-fsdp1/tome"]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """All jobs, one after the other, on one pair of processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29533"]
    command = [*launcher, str(WORKER), str(tmp_path_factory.mktemp("jobs")), *JOBS]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_train_as_one(job: str, done: subprocess.CompletedProcess[str]) -> None:
    assert f"ok {job.replace('/', ' ')}\n" in done.stdout, done.stderr[-3000:]
