"""A plugin may do what it likes when it is found or imported: it is named, and nobody else is harmed.

The plugins are laid out on the path as pip lays them out.
"""

import json
import os
import subprocess
import sys

import pytest

HOOK = """
import tokenreduce
from tokenreduce.registry import {kind}
@tokenreduce.registry.hookimpl
def tokenreduce_{plural}():
    yield {kind}({arguments})
"""


@pytest.fixture
def plugin(tmp_path):
    """Lay out a plugin; gives a way to run a command with it."""

    def run(*command, **env):
        return subprocess.run(
            [sys.executable, "-m", "tokenreduce", *command],
            env={**os.environ, "PYTHONPATH": str(tmp_path), **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def make(code, name="odd", points="[tokenreduce]\nodd = odd_plugin\n", files=None):
        (tmp_path / "odd_plugin.py").write_text(code)
        for file, text in (files or {}).items():
            (tmp_path / file).write_text(text)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_bytes(points if isinstance(points, bytes) else points.encode())
        return run

    return make


def reducers(arguments):
    return HOOK.format(kind="ReducerSpec", plural="reducers", arguments=arguments)


BASE = "class Odd(BaseException):\n    def __str__(self): raise Odd()\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import pytest\npytest.skip('no GPU', allow_module_level=True)\n", "no GPU"),
        ("raise BaseException('whatever')\n", "BaseException: whatever"),
        (f"{BASE}raise Odd()\n", "Odd"),
        ("import asyncio\nraise asyncio.CancelledError()\n", "CancelledError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        (f"{BASE}def __getattr__(name): raise Odd()\n", "Odd"),
        ("import nothing_like_it\n", "nothing_like_it"),
        ("def f(:\n", "SyntaxError"),
        ("raise ValueError('\\x1b[31mred\\x1b[0m \\ud800')\n", "ValueError"),
        (reducers("'x', 'm:A', None"), "description must be text, got None"),
        (reducers("'x', 'm:A', b'bytes'"), "description must be text"),
        (reducers("'x', 'm:A', 'd', source=3"), "source must be text, got 3"),
        (reducers("'x', 'm:A', 'd', needs='keys'"), "needs must be a tuple of texts"),
        (reducers("'x', 'm:A', 'd', needs=(1,)"), "needs must be a tuple of texts"),
        (reducers("'x', 'm:A', 'd', role='control', stacks='handover'"), "stacks must be a tuple of texts"),
        (reducers("'x', 'm:A', 'd', learns='no'"), "learns must be true or false"),
        (reducers("3, 'm:A', 'd'"), "name"),
        (reducers("'x', 'm:A', 'd'").replace("    yield ", "    while True: yield "), "more than 10000 specs"),
        (reducers("'x', 'm:A', 'd'").replace("    yield ", "    return "), "TypeError"),
        (
            HOOK.format(kind="AdapterSpec", plural="adapters", arguments="'x', 'm:A', 'd', library=None"),
            "library must be text",
        ),
        (
            HOOK.format(kind="TaskSpec", plural="tasks", arguments="'x', 'm:A', 'd', variants='ab'"),
            "variants must be a tuple of texts",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_the_rest_is_listed(code, words, plugin):
    run = plugin(code)
    done = run("list", COLUMNS="300")
    assert done.returncode == 0 and "tome" in done.stdout and "pumer" in done.stdout, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("broken: ")]
    assert "'odd' of odd 1.0" in line and words in line and "\x1b" not in line
    listed = json.loads(run("list", "--json").stdout)
    assert [broken["plugin"] for broken in listed["broken"]] == ["odd"]


def test_a_description_is_one_line_that_commands_no_terminal(plugin):
    run = plugin(reducers("'x', 'm:A', 'first\\nsecond \\x1b]0;title\\x07 \\ud800 [/]'"))
    done = run("list", COLUMNS="300")
    assert done.returncode == 0 and "first second" in done.stdout and "\x1b" not in done.stdout


def test_what_a_plugin_prints_is_no_part_of_the_output(plugin):
    noise = "import os, sys\nprint('noise')\nos.write(1, b'noise')\nsys.stdout.buffer.write(b'noise')\n"
    run = plugin(noise + "sys.stdout.close()\nsys.__stdout__.close()\n" + reducers("'x', 'm:A', 'd'"))
    done = run("list", "--json")
    assert done.returncode == 0 and "noise" in done.stderr
    assert "x" in [entry["name"] for entry in json.loads(done.stdout)["reducers"]]


@pytest.mark.parametrize(
    "points", [b"[tokenreduce]\nodd = \xff\xfe\n", "[tokenreduce]\nodd = not a module\n", "[tokenreduce\n= =\n"]
)
def test_damaged_metadata_harms_nobody_else(points, plugin):
    run = plugin("", points=points)
    done = run("list", COLUMNS="300")
    assert done.returncode == 0 and "tome" in done.stdout and "Traceback" not in done.stderr, done.stderr


TASKS = HOOK.format(kind="TaskSpec", plural="tasks", arguments="'odd-task', 'odd_code:task', 'd', variants=()")
PRESETS = HOOK.format(kind="PresetSpec", plural="presets", arguments="'odd-preset', 'odd_code:preset', 'd'")


@pytest.mark.parametrize(
    ("code", "hook", "command"),
    [
        ("def task(): raise KeyError('no weights')\n", TASKS, ["ablate", "--model", "odd-task"]),
        ("def task(): return 3\n", TASKS, ["ablate", "--model", "odd-task"]),
        ("import sys\nsys.exit('enough')\n", TASKS, ["show", "--sample", "0", "--model", "odd-task"]),
        ("def preset(): raise SystemExit(0)\n", PRESETS, ["ablate", "--preset", "odd-preset"]),
        ("def preset(): return 3\n", PRESETS, ["ablate", "--preset", "odd-preset"]),
        (
            "import pytest\npytest.skip('x', allow_module_level=True)\n",
            reducers("'odd-one', 'odd_code:A', 'd'"),
            ["info", "odd-one"],
        ),
        (
            "import tokenreduce\nclass A(tokenreduce.Reducer):\n    def __init__(self): raise SystemExit('k')\n",
            reducers("'odd-one', 'odd_code:A', 'd'"),
            ["info", "odd-one"],
        ),
    ],
)
def test_a_command_that_needs_it_ends_in_words(code, hook, command, plugin):
    run = plugin(hook, files={"odd_code.py": code})
    done = run(*command)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "odd" in done.stderr, done.stderr


@pytest.mark.sweep
def test_a_reducer_that_ends_the_process_is_a_failed_row(plugin, tmp_path):
    code = "import sys, tokenreduce\nclass A(tokenreduce.Reducer):\n    def bind(self, backbone): sys.exit('enough')\n"
    run = plugin(reducers("'odd-one', 'odd_code:A', 'd'"), files={"odd_code.py": code})
    quick = ["--samples", "4", "--batch", "4", "--rounds", "1", "--seeds", "1", "--batch-sizes", "1", "--no-break-even"]
    done = run("ablate", *quick, "--no-store", "--reducers", "odd-one", "--json", str(tmp_path / "r.json"))
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "r.json").read_text())["rows"]}
    assert "SystemExit: enough" in rows["odd-one"]["failed"] and rows["none"]["failed"] is None
