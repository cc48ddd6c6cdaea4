"""A way to run the command line, and plugins that are really installed."""

import os
import subprocess
import sys
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

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """Run ``python -m tokenreduce ARGS`` with extra folders on the path and extra environment."""

    def call(*args: str, sites: list[Path] | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([*map(str, sites or []), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        return subprocess.run(
            [sys.executable, "-m", "tokenreduce", *args],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": path, **env},
        )

    return call


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
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
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--target", str(site), *["-e"] * editable, str(source)], check=True, timeout=120)
        return site

    return make
