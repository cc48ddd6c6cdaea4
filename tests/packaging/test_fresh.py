"""Source archive and wheel are built, installed into fresh environments, and pass the kit there.

On every Python from 3.10 on that is found here, with the lowest torch that pyproject.toml allows and with the newest.
Collected where TOKENREDUCE_EVERY_PYTHON is set.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KIT = Path(__file__).parent / "kit_elsewhere.py"


def pythons() -> dict[str, str]:
    """Interpreters by minor version: this one, those on the path, and pyenv's."""
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    candidates = [shutil.which(f"python3.{minor}") for minor in range(10, 16)]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += [str(path) for path in sorted(Path(root).glob("versions/3.*/bin/python"))]
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        version = done.stdout.strip()
        if done.returncode == 0 and re.fullmatch(r"3\.\d+", version) and int(version[2:]) >= 10:
            found.setdefault(version, candidate)
    return dict(sorted(found.items(), key=lambda pair: int(pair[0][2:])))


def pairs() -> list[tuple[str, str]]:
    """Pythons with torches."""
    return [(version, torch) for version in pythons() for torch in ("lowest", "newest")]


@pytest.fixture(scope="session")
def built(python, tmp_path_factory):
    """The wheel that is built of the source archive, as an index gets both."""
    folder = tmp_path_factory.mktemp("dist")
    done = python("-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    done = python("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.sweep
@pytest.mark.parametrize(("version", "torch"), pairs())
def test_the_kit_passes_in_a_fresh_environment(version, torch, built, python, pyproject, tmp_path):
    env = tmp_path / "env"
    uv = ["-m", "uv"]
    done = python(*uv, "venv", "-q", "--python", pythons()[version], env)
    assert done.returncode == 0, done.stderr
    (wanted,) = (one for one in pyproject["project"]["dependencies"] if one.startswith("torch>"))
    how = "lowest-direct" if torch == "lowest" else "highest"
    own = env / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = ["pip", "install", "-q", "--python", own, "--resolution", how]
    done = python(*uv, *install, wanted, f"{built}[timm,meter,testing]", timeout=3000)
    assert done.returncode == 0, done.stderr
    kit = shutil.copy(KIT, tmp_path)  # away from this project, whose settings pytest would read
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", kit]
    done = python(*command, executable=own, cwd=tmp_path, timeout=3000, PYTHONPATH="")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
