"""One ablation as several jobs with one store, without a clock, and under Slurm."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import tokenreduce
from tokenreduce.errors import OptionError
from tokenreduce.lab.distributed import lone_tasks
from tokenreduce.lab.part import Part
from tokenreduce.lab.store import Store
from tokenreduce.tasks import Batch

SAME = ("name", "scores", "accuracy", "accuracy_by_seed", "interval", "options", "macs", "tokens", "verdict", "failed")


def right(output, target):
    return (output.argmax(-1) == target).float()


@pytest.fixture
def ablate():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=3).eval()
    data = [Batch({"x": torch.randn(4, 3, 32, 32)}, torch.randint(3, (4,))) for _ in range(2)]

    def run(**more):
        return tokenreduce.ablate(model, data, ["tome"], metric=right, ratios=[0.2, 0.4], seeds=2, time=False, **more)

    return run


def test_parts_and_then_the_whole(ablate, tmp_path):
    alone = ablate(store=Store(tmp_path / "alone"))
    parts = [ablate(store=Store(tmp_path / "shared"), part=f"{number}/3") for number in (1, 2, 3)]
    passes = sum(len(row.seeds) for row in alone.rows)
    assert sum(part.setup["scores of the part"] for part in parts) == passes
    assert not any(row.scores for part in parts for row in part.rows)
    whole = ablate(store=Store(tmp_path / "shared"))
    assert whole.ok and whole.setup["cells"]["worked out"] == 0
    for row, other in zip(whole.rows, alone.rows, strict=True):
        assert [getattr(row, name) for name in SAME] == [getattr(other, name) for name in SAME]


def test_without_a_clock(ablate, tmp_path):
    result = ablate()
    assert any("nothing was timed" in note for note in result.setup["notes"])
    for row in result.rows:
        assert row.accuracy is not None and row.macs and row.peak_memory_bytes
        assert (row.paces, row.overhead, row.break_even) == ([], None, None)
    tokenreduce.print_result(result)  # tables without times


def test_a_part_needs_a_store(ablate):
    with pytest.raises(OptionError, match="pass store=Store"):
        ablate(part="1/2")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_a_part_that_is_none(text):
    with pytest.raises(OptionError, match="2/8"):
        Part.of(text)


def test_every_cell_is_in_one_part():
    cells = list(range(11))
    assert sorted(cell for number in range(1, 5) for cell in Part(number, 4).mine(cells)) == cells


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0"}, True),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, False),  # the first says so
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0", "WORLD_SIZE": "16"}, False),  # under torchrun
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),  # a batch script: one process
    ],
)
def test_srun_without_torchrun(environment, said):
    warning = lone_tasks(environment)
    assert (warning is not None) == said
    assert not said or ("8 tasks" in warning and "--part" in warning)
