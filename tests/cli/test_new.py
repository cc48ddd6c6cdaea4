"""``tokenreduce new``: what it writes installs, is listed, passes its own tests; names are checked, nothing is lost."""

import json
import os
import re
import sys
import venv
from pathlib import Path

import pytest

KINDS = ("reducer", "adapter", "task")
NAMES = {"reducer": "long-keys", "adapter": "small.vit", "task": "seen_colours"}
LONGEST = "a-name-of-24-characters0"


@pytest.fixture(scope="session")
def output(python):
    """Run Python; gives what it prints, and fails the test with it where the exit code is not 0."""

    def call(*arguments, **options):
        done = python(*arguments, timeout=900, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def made(output, tmp_path_factory):
    """A package of each kind as ``tokenreduce new`` writes it, by kind, and what was printed."""
    into = tmp_path_factory.mktemp("made")
    printed = {kind: output("-m", "tokenreduce", "new", kind, NAMES[kind], "--into", into) for kind in KINDS}
    return {kind: into / f"tokenreduce-{NAMES[kind]}" for kind in KINDS}, printed


@pytest.fixture(scope="module")
def site(output, made, tmp_path_factory):
    """The folder that all three are installed into."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", folder]
    output(*command, *made[0].values())
    return folder


@pytest.fixture(scope="module")
def others(output):
    """The names of all other plugins, for TOKENREDUCE_DISABLE_PLUGINS."""
    listed = json.loads(output("-m", "tokenreduce", "list", "--json"))
    return ",".join({entry["plugin"] for kind in listed.values() if isinstance(kind, list) for entry in kind})


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_wrote_and_what_to_type_next(made, kind):
    folder, printed = made[0][kind], made[1][kind]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    package = "tokenreduce_" + NAMES[kind].replace("-", "_").replace(".", "_")
    assert {"pyproject.toml", "README.md", f"{package}/__init__.py", f"{package}/py.typed"} <= files
    assert all(f"  {file}\n" in printed for file in files)
    steps = printed.partition("next:\n")[2].splitlines()
    assert steps[0].strip() == f"cd {folder}"
    readme = (folder / "README.md").read_text()
    assert all(step.strip().replace("'", '"') in readme for step in steps[1:])
    assert not any("${" in path.read_text() for path in folder.rglob("*") if path.is_file())


@pytest.mark.sweep
def test_installed_they_are_listed_and_in_order(output, site, others):
    listed = json.loads(output("-m", "tokenreduce", "list", "--json", sites=[site]))
    assert not listed["broken"]
    for kind in KINDS:
        (entry,) = [entry for entry in listed[f"{kind}s"] if entry["name"] == NAMES[kind]]
        assert entry["distribution"].replace("_", "-") == f"tokenreduce-{NAMES[kind]}".replace("_", "-")
    checked = output("-m", "tokenreduce", "list", "--check", sites=[site], TOKENREDUCE_DISABLE_PLUGINS=others)
    assert checked.strip() == "3 specs: all in order"


@pytest.mark.parametrize("name", ["x", LONGEST])
def test_what_is_written_needs_no_formatter(output, tmp_path, name):
    for kind in KINDS:
        into = tmp_path / kind
        into.mkdir()
        output("-m", "tokenreduce", "new", kind, name, "--into", into)
        output("-m", "ruff", "check", ".", cwd=into / f"tokenreduce-{name}")
        output("-m", "ruff", "format", "--check", ".", cwd=into / f"tokenreduce-{name}")


@pytest.mark.parametrize("kind", ["reducer", "adapter"])
@pytest.mark.sweep
def test_their_own_tests_pass(output, made, site, kind):
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not TestConformance"]
    assert "1 passed" in output(*command, cwd=made[0][kind], sites=[site])


@pytest.mark.sweep
def test_a_new_task_can_be_ablated(output, site, tmp_path):
    result = tmp_path / "result.json"
    flags = ["--samples", "8", "--rounds", "1", "--seeds", "1", "--no-break-even", "--json", result]
    command = ["-m", "tokenreduce", "ablate", "--model", NAMES["task"], *flags]
    printed = output(*command, "--reducers", f"none,random,{NAMES['reducer']}", sites=[site], COLUMNS="200")
    rows = {row["name"]: row for row in json.loads(result.read_text())["rows"]}
    assert rows["none"]["accuracy"] > 0.5
    assert rows[NAMES["reducer"]]["tokens"] < rows["none"]["tokens"]
    assert NAMES["reducer"] in printed


def test_a_new_adapter_is_covered(output, site):
    printed = output("-m", "tokenreduce", "coverage", NAMES["adapter"], sites=[site])
    rows = {line.split(" | ")[0]: line for line in printed.splitlines() if line.startswith("| `")}
    assert "class" in rows["| `evit`"] and "keys" in rows["| `tome`"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Key-Norm", "lower-case letters and digits.* got 'Key-Norm'; try 'key-norm'"),
        ("3d", "a letter first.* got '3d'; try 'my-3d'"),
        ("a--b", "try 'a-b'"),
        ("a/../b", "got 'a/../b'; try 'a-b'"),
        ("ends-", "try 'ends'"),
        ("", "got ''"),
        (LONGEST + "1", "at most 24 characters"),
        ("true", "a word of Python; try 'true-tokens'"),
        ("tome", r"taken: it is a reducer of tokenreduce [\d.]+ \(plugin 'tome'\)"),
        ("vilt-digits", "taken: it is a task of tokenreduce"),
        ("digits", "taken: it is the plugin that offers the task"),
    ],
)
def test_bad_names_are_refused(run, tmp_path, name, says):
    done = run("new", "reducer", "--into", tmp_path, "--", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(says, done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_third_party_plugin_is_refused(run, site, tmp_path):
    command = ["new", "task", NAMES["reducer"], "--into", tmp_path]
    done = run(*command, sites=[site])
    assert done.returncode == 2
    assert f"it is a reducer of tokenreduce-{NAMES['reducer']} 0.1.0" in done.stderr
    done = run(*command, sites=[site], TOKENREDUCE_DISABLE_PLUGINS=NAMES["reducer"])
    assert done.returncode == 2
    assert "a Python package tokenreduce_long_keys is there already" in done.stderr


def test_nothing_is_overwritten(run, tmp_path):
    folder = tmp_path / "tokenreduce-mine"
    folder.mkdir()
    command = ["new", "reducer", "mine", "--into", tmp_path]
    assert run(*command).returncode == 0  # into an empty one
    readme = folder / "README.md"
    readme.write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = run(*command)
    assert done.returncode == 2
    assert "is there already and is not overwritten; choose another name" in done.stderr
    assert readme.read_text() == "mine"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_parent_folder_must_be_there(run, tmp_path):
    done = run("new", "reducer", "mine", "--into", tmp_path / "no")
    assert done.returncode == 2
    assert "does not exist; make it first" in done.stderr


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_suite_that_is_written_passes(output, made, site, kind):
    printed = output("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=made[0][kind], sites=[site])
    assert " passed" in printed and " failed" not in printed


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
def test_the_types_are_right(output, made, kind):
    (package,) = made[0][kind].glob("tokenreduce_*")
    command = ["-m", "mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent"]
    output(*command, package.name, cwd=made[0][kind])


@pytest.mark.sweep
def test_as_a_user_would_in_an_environment_of_their_own(output, tmp_path, others):
    """A fresh environment sees what is installed here; the new packages are installed into it as editable."""
    venv.create(tmp_path / "env", with_pip=False)
    own = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    purelib = output("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", executable=own).strip()
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages" and path.is_dir())
    (Path(purelib) / "here.pth").write_text(f"import site; site.addsitedir({str(here)!r})\n")

    def typed(*command, **options):
        return output("-m", *command, executable=own, **options)

    for kind in KINDS:
        typed("tokenreduce", "new", kind, NAMES[kind], cwd=tmp_path)
        folder = tmp_path / f"tokenreduce-{NAMES[kind]}"
        typed("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", ".[test]", cwd=folder)
        assert NAMES[kind] in typed("tokenreduce", "list", cwd=folder, COLUMNS="200")
        typed("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert "all in order" in typed("tokenreduce", "list", "--check", TOKENREDUCE_DISABLE_PLUGINS=others)
    few = ["--reducers", f"none,random,{NAMES['reducer']}", "--samples", "32", "--rounds", "2", "--no-break-even"]
    assert NAMES["reducer"] in typed("tokenreduce", "ablate", "--model", NAMES["task"], *few, COLUMNS="200")
    assert NAMES["reducer"] in typed("tokenreduce", "coverage", NAMES["adapter"])
