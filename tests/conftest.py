"""What the tests share: the fast tier, commands, tiny models with random weights, their inputs, comparisons."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_all_start_methods
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import sweep
from .helpers import WORDS
from .warm import run_warm

PACKAGES = ("tokenreduce", "tokenreduce_digits")

pytest_plugins = ["tokenreduce.testing"]

VILT = {
    "vocab_size": 99,
    "max_position_embeddings": 48,
    "modality_type_vocab_size": 3,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_images": 2,
}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 7}

CORE = (  # `pytest -m core`, a test of each part of the library: regular expressions that a test's id begins with
    "unit/",
    "plugins/test_(reference|counts|oracle|methods|own_reducer)",
    "adapters/test_(attachment|lifecycle|bad_input|isolation)",
    "conformance/test_adapters.*test_tokens_go",
    "conformance/test_reducers.*Test_pumer",
    "training/test_(learnable|loop|saving)",
    "loaders/test_(records|timm_loader)",
    "lab/test_(statistics|verdict|compare)",
    "lab/test_ablate.py::test_(accuracy|several_seeds|a_row_that_fails)",
    "report/test_(formatting|terminal)",
    "cli/test_(commands.py::test_list|plugins.py::test_two_plugins)",
    "docs/test_documents.py::test_(code_runs.README|every|links|readme)",
    "packaging/test_(neutral.py::test_(imports|nothing_heavy.*list|built_in|no_names)|packaging.py::test_(every|public))",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of the fast tier, and those that only the sweep runs."""
    left_out = sweep.mark(items)
    ids = {item: item.nodeid.removeprefix("tests/") for item in items if not item.get_closest_marker("sweep")}
    for item, name in ids.items():
        if re.match("|".join(CORE), name):
            item.add_marker("core")
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:  # everything was collected
        gone = [pattern for pattern in CORE if not any(re.match(pattern, name) for name in ids.values())]
        if gone:
            raise pytest.UsageError(f"CORE in tests/conftest.py names tests that do not exist: {gone}")
        idle = sorted(sweep.STAYS.keys() - left_out)
        if idle:
            raise pytest.UsageError(f"STAYS in tests/sweep.py has rules that leave nothing out: {idle}")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny models are faster on one thread, and sums come out the same each time; so do the commands under test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with two threads each get in each other's way
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_grad() -> Iterator[None]:
    """No gradients in this test: ``pytestmark = pytest.mark.usefixtures("no_grad")``."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python ARGS`` in another process, with the folders ``sites`` on its path and extra environment.

    A module of this project that needs neither is forked from a process that has imported what it imports.
    """

    def run(
        *args: object,
        sites: Sequence[Path] = (),
        cwd: Path | None = None,
        timeout: float = 300,
        executable: str | Path = sys.executable,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        own = args[0] == "-m" and str(args[1]).partition(".")[0] in PACKAGES
        plain = not sites and executable == sys.executable and not any(name.startswith("TOKENREDUCE") for name in env)
        if own and plain and "forkserver" in get_all_start_methods():
            return run_warm(str(args[1]), args[2:], cwd, timeout, {**os.environ, **env})
        path = os.pathsep.join([*map(str, sites), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        env = {**os.environ, "PYTHONPATH": path, **env}
        command = [str(executable), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=env, check=False)

    return run


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    """What pyproject.toml says."""
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The slow re-implementations of the methods in plugins/oracle.py."""
    from .plugins import oracle

    return oracle


@pytest.fixture(scope="session")
def embedded() -> Callable[[str], Any]:
    """Make a task that comes with the library, by name."""
    from tokenreduce.registry import default_registry

    return lambda name: default_registry().load("task", name)()


@pytest.fixture
def bert_words(tmp_path: Path) -> Any:
    """A BERT tokenizer of a few words."""
    from transformers import BertTokenizer

    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(WORDS) + "\n")
    return BertTokenizer(str(file))


def _scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                value = 0.2 * noise + (0 if name.endswith("bias") else 1)
            elif parameter.ndim == 3:  # class token, position embeddings
                value = 0.5 * noise
            else:
                value = noise / parameter[0].numel() ** 0.5
            parameter.copy_(value)
    return model


@pytest.fixture(scope="session")
def scramble() -> Callable[..., nn.Module]:
    """Fill every weight with noise, zero-initialised ones too, so that no part of a model can hide."""
    return _scramble


@pytest.fixture(scope="session")
def tiny_vit(scramble: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Build a timm ``VisionTransformer`` (4 blocks, width 32, 16 patches); keywords override its arguments."""

    def build(cls: type[nn.Module] | None = None, seed: int = 0, **arguments: Any) -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        return scramble((cls or VisionTransformer)(**{**VIT, **arguments}), seed).eval()

    return build


@pytest.fixture(scope="session")
def tiny_vilt(scramble: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Build a ViLT class of transformers by name (4 blocks, width 32, 16 patches); keywords override the config."""

    def build(kind: str | type[nn.Module] = "ViltForQuestionAnswering", seed: int = 0, **config: Any) -> nn.Module:
        import transformers

        cls = getattr(transformers, kind) if isinstance(kind, str) else kind
        labels = {"id2label": {i: str(i) for i in range(5)}, "label2id": {str(i): i for i in range(5)}}
        return scramble(cls(transformers.ViltConfig(**{**VILT, **labels, **config})), seed).eval()

    return build


@pytest.fixture(scope="session")
def tiny_meter() -> Callable[..., tuple[nn.Module, dict[str, Tensor]]]:
    """Build a METER class (4 levels, width 32, 36 patches) and inputs for it, the second text padded."""

    def build(
        kind: str = "MeterForQuestionAnswering", seed: int = 0, **config: Any
    ) -> tuple[nn.Module, dict[str, Any]]:
        from tokenreduce_models import meter
        from tokenreduce_models.meter.examples import example

        made = example(getattr(meter, kind), seed, **config)
        return made.model, made.inputs

    return build


@pytest.fixture(scope="session")
def images() -> Callable[..., Tensor]:
    """Noise images (B, 3, H, W)."""

    def build(batch: int = 2, height: int = 32, width: int = 32, seed: int = 1) -> Tensor:
        return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))

    return build


@pytest.fixture(scope="session")
def vilt_inputs() -> Callable[..., dict[str, Tensor]]:
    """Inputs of a ViLT; ``lengths`` (text) and ``sizes`` (pixels) of each sample bring the masks."""

    def build(
        batch: int = 3,
        text: int = 7,
        height: int = 32,
        width: int = 32,
        lengths: list[int] | None = None,
        sizes: list[tuple[int, int]] | None = None,
        pairs: bool = False,
        seed: int = 1,
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, 2, 3, height, width) if pairs else (batch, 3, height, width)
        inputs = {
            "input_ids": torch.randint(1, VILT["vocab_size"], (batch, text), generator=generator),
            "pixel_values": torch.randn(shape, generator=generator),
        }
        if lengths is not None:
            inputs["attention_mask"] = (torch.arange(text) < torch.tensor(lengths)[:, None]).long()
        if sizes is not None:
            mask = torch.zeros(batch, height, width, dtype=torch.long)
            for sample, (high, wide) in enumerate(sizes):
                mask[sample, :high, :wide] = 1
            inputs["pixel_mask"] = mask.unsqueeze(1).repeat(1, 2, 1, 1) if pairs else mask
        return inputs

    return build


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Check that two tensors agree, relative to the largest expected value."""

    def check(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
        assert got.shape == expected.shape
        scale = expected.double().abs().max()
        difference = (got.double() - expected.double()).abs().max()
        assert torch.isfinite(difference), "not finite"
        assert difference <= tolerance * scale, f"differs by {difference:.3g} at a scale of {scale:.3g}"

    return check


@pytest.fixture(scope="session")
def snapshot() -> Callable[[nn.Module], Any]:
    """All that attach may touch: equal when untouched."""
    from tokenreduce.testing import snapshot  # not above: pytest is yet to load the plugin it belongs to

    return snapshot


@pytest.fixture(scope="session")
def forwards() -> Callable[[nn.Module], list[str]]:
    """Names of the modules with methods replaced on the instance."""

    def of(model: nn.Module) -> list[str]:
        names = ("forward", "visual_embed", "forward_features")
        return [f"{name}.{key}" for name, module in model.named_modules() for key in names if key in vars(module)]

    return of


@pytest.fixture(scope="session")
def tensors_of() -> Callable[[Any], list[Tensor]]:
    """Every tensor of a model's output, in order."""

    def of(output: Any) -> list[Tensor]:
        if isinstance(output, Tensor):
            return [output]
        if isinstance(output, dict):
            output = tuple(output.values())
        return [tensor for part in output if part is not None for tensor in of(part)]

    return of
