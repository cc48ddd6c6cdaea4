"""transformers' own model tests, on models to which a reducer without a budget is attached.

Its source distribution has the mixins, its wheel has not: it is fetched by pip, or named in ``TRANSFORMERS_SDIST``.
What it lacks (the tests of generate() and of export) is stood in for by empty classes; tests/language/test_generate.py
has our own. A test counts where it passes on the plain model.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import transformers

pytestmark = pytest.mark.sweep
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REFUSED = {
    "test_eager_matches_sdpa_inference": "placeholders of an image come without the image",
}
"""By beginnings of names: tests of calls that an attached model refuses in words, and why."""
STUBS = {"generation/test_utils.py": "GenerationTesterMixin", "exporters/test_export.py": "ExportTesterMixin"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The source distribution of the installed version."""
    folder, version = tmp_path_factory.mktemp("sdist"), transformers.__version__
    name = f"transformers-{version}.tar.gz"
    given = os.environ.get("TRANSFORMERS_SDIST")
    if given:
        assert Path(given).name == name, f"TRANSFORMERS_SDIST is {given}, but version {version} is installed"
        return Path(given)
    command = ["download", "--no-deps", "--no-binary", "transformers", f"transformers=={version}", "-d", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True)
    if not (folder / name).is_file():
        pytest.fail(
            f"pip could not fetch {name}, which has transformers' own tests; set TRANSFORMERS_SDIST to a copy of it.\n"
            f"{done.stderr[-500:]}"
        )
    return folder / name


@pytest.fixture(scope="module")
def suite(source, tmp_path_factory):
    """A folder with its mixins, stubs for what they import, and the tests of three families."""
    folder = tmp_path_factory.mktemp("suite")
    package = folder / "library_tests"
    with tarfile.open(source) as archive:
        for member in archive.getmembers():
            path = Path(member.name)
            if member.isfile() and path.match("transformers-*/tests/*.py") and len(path.parts) == 3:
                package.mkdir(exist_ok=True)
                (package / path.name).write_bytes(archive.extractfile(member).read())
    if not (package / "test_modeling_common.py").is_file():
        pytest.fail(f"{source.name} has no tests/test_modeling_common.py; the library has moved its tests")
    for name, mixin in STUBS.items():
        if not (package / name).exists():
            (package / name).parent.mkdir()
            (package / name).with_name("__init__.py").touch()
            (package / name).write_text(f"class {mixin}:\n    pass\n")
    (package / "__init__.py").touch()
    shutil.copy(HERE / "library" / "attached.py", package / "test_attached.py")
    shutil.copy(HERE / "library" / "parameterized.py", folder / "parameterized.py")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def outcomes(suite, family, attach):
    """Outcome of each test by name, and what was counted."""
    count = suite / f"passes-{family}-{attach}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(suite), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    environment |= {
        "TOKENREDUCE_ATTACH": str(int(attach)),
        "TOKENREDUCE_PASSES": str(count),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "400",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "library_tests/test_attached.py",
            "-k",
            family,
            "-rA",
            "-q",
            "--tb=line",
            "-n",
            "0",
        ],
        cwd=suite,
        env=environment,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    assert found, done.stdout[-3000:] + done.stderr[-3000:]
    passes, removed = count.read_text().split()
    return {name: outcome for outcome, name in found}, int(passes), int(removed), done.stdout


@pytest.mark.parametrize("family", ["TestLlava", "TestQwen", "TestGemma"])
def test_what_passes_on_the_plain_model_passes_on_the_attached_one(suite, family):
    plain, none, _, _ = outcomes(suite, family, False)
    got, passes, removed, told = outcomes(suite, family, True)
    good = {name for name, outcome in plain.items() if outcome == "PASSED"}
    assert len(good) >= 60 and none == 0, plain
    assert passes >= 40 and removed == 0
    worse = {name for name in good if got.get(name) != "PASSED"}
    lines = {name: line for line in told.splitlines() for name in worse if re.search(rf"FAILED .*::{name} ", line)}
    refused = {
        name
        for name, line in lines.items()
        if any(name.startswith(test) for test in REFUSED) and "UnsupportedCallError" in line
    }
    assert worse == refused, "\n".join(lines.get(name, name) for name in sorted(worse - refused))
