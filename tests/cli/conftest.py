"""A way to run the command line, and plugins that are really installed."""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
[project.entry-points.tokenreduce]
{plugin} = "{package}"
[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""


@pytest.fixture(scope="session")
def run(python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``tokenreduce ARGS`` in another process."""
    return functools.partial(python, "-m", "tokenreduce")


@pytest.fixture
def install(python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Callable[..., Path]:
    """Build and install a package with one plugin into a folder of its own; gives the folder."""

    def make(
        name: str, code: dict[str, str], *, plugin: str | None = None, version: str = "1.2.3", editable: bool = False
    ) -> Path:
        package, source = name.replace("-", "_"), tmp_path / f"src-{name}"
        (source / package).mkdir(parents=True)
        for file, text in code.items():
            (source / package / file).write_text(text)
        fields = {"name": name, "version": version, "plugin": plugin or name, "package": package}
        (source / "pyproject.toml").write_text(PYPROJECT.format(**fields))
        site = tmp_path / f"site-{name}"
        command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site]
        python(*command, *["-e"] * editable, source).check_returncode()
        return site

    return make
