"""Training on two processes, on the CPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "worker.py"
JOBS = ["ddp/dynamicvit", "ddp/pumer", "fsdp/dynamicvit", "fsdp/tome", "fsdp1/dynamicvit", "accelerate/dynamicvit",
        "trainer/dynamicvit", "trainer/pumer", "taught-ddp/pumer", "taught-ddp/dynamicvit", "taught-fsdp/pumer",
        "taught-fsdp1/tome", "blocks-fsdp1/dynamicvit", "blocks-fsdp1/pumer"]  # fmt: skip


@pytest.mark.sweep
def test_two_processes_train_as_one(python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """All jobs, one after the other, on one pair of processes; one test, so that no two of them share a port."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = python(*launcher, WORKER, tmp_path, *JOBS)
    failed = [job for job in JOBS if f"ok {job.replace('/', ' ')}\n" not in done.stdout]
    assert failed == [], done.stderr[-3000:]
