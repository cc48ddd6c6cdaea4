"""Third-party plugins, installed for real: found everywhere, isolated when broken, named when they clash."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

HOOK = """
import tokenreduce

@tokenreduce.registry.hookimpl
def tokenreduce_reducers():
    yield tokenreduce.registry.ReducerSpec("{name}", "{target}", "keep tokens with long keys", needs=("keys",))
"""
KEY_NORM = """
import tokenreduce

class KeyNorm(tokenreduce.Reducer):
    needs = {"keys"}

    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(signals.keys.norm(dim=-1), remove=remove)
"""
FAILING = """
import tokenreduce

class Failing(tokenreduce.Reducer):
    def reduce(self, tokens, signals, remove):
        raise RuntimeError("the plugin's mistake")
"""


def key_norm(install: Callable[..., Path], name: str = "key-norm", dist: str = "tr-key-norm") -> Path:
    package = dist.replace("-", "_")
    hook = HOOK.format(name=name, target=f"{package}.method:KeyNorm")
    return install(dist, {"__init__.py": hook, "method.py": KEY_NORM})


def test_ten_line_reducer_is_found_everywhere(install, run, tmp_path):
    site = key_norm(install)
    listed = json.loads(run("list", "--json", sites=[site]).stdout)
    entry = next(e for e in listed["reducers"] if e["name"] == "key-norm")
    assert (entry["distribution"], entry["version"]) == ("tr-key-norm", "1.2.3")
    info = run("info", "key-norm", sites=[site])
    assert info.returncode == 0
    assert "keep = None" in info.stdout and "tr-key-norm 1.2.3" in info.stdout
    out = tmp_path / "result.json"
    args = ["--samples", "8", "--batch", "8", "--rounds", "1", "--seeds", "1", "--no-break-even", "--json", str(out)]
    args += ["--store", str(tmp_path / "store")]
    done = run("ablate", *args, "--reducers", "evit,key-norm", "--set", "key-norm.keep=0.5", sites=[site])
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) >= {"none", "random", "evit", "key-norm"}
    assert rows["key-norm"]["options"]["keep"] == 0.5
    assert rows["key-norm"]["tokens"] < rows["none"]["tokens"]


@pytest.mark.sweep
def test_a_failing_reducer_is_a_failed_row(install, run, tmp_path):
    hook = HOOK.format(name="failing", target="tr_failing.method:Failing")
    site = install("tr-failing", {"__init__.py": hook, "method.py": FAILING})
    out = tmp_path / "result.json"
    args = ["--samples", "4", "--batch", "4", "--rounds", "1", "--seeds", "1", "--no-break-even", "--json", str(out)]
    args += ["--store", str(tmp_path / "store")]
    done = run("ablate", "--reducers", "none,failing,random", *args, sites=[site])
    assert done.returncode == 1
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert "the plugin's mistake" in rows["failing"]["failed"]
    assert "the plugin's mistake" in done.stderr
    assert rows["none"]["failed"] is None and rows["random"]["paces"]


def test_broken_plugins_are_named_and_harm_no_others(install, run):
    sites = [
        install("tr-broken", {"__init__.py": "import no_such_module\n"}),
        install("tr-misspelt", {"__init__.py": HOOK.format(name="x", target="a:B").replace("_reducers", "_reducer")}),
        install("tr-wrong", {"__init__.py": HOOK.format(name="UPPER case", target="a:B")}),
        key_norm(install),
    ]
    done = run("list", sites=sites, COLUMNS="300")
    assert done.returncode == 0
    for word in ("tr-broken 1.2.3", "no_such_module", "tr-misspelt", "tokenreduce_reducer", "tr-wrong", "UPPER case"):
        assert word in done.stdout
    assert "key-norm" in done.stdout and "pumer" in done.stdout
    named = run("info", "tr-broken", sites=sites)
    assert named.returncode == 2
    assert "no_such_module" in named.stderr


def test_a_missing_target_is_reported_when_the_name_is_used(install, run):
    site = install("tr-gone", {"__init__.py": HOOK.format(name="gone", target="tr_gone.method:Gone")})
    done = run("info", "gone", sites=[site])
    assert done.returncode == 2
    assert "tr_gone.method:Gone" in done.stderr and "tr-gone 1.2.3" in done.stderr


def test_a_clash_of_names_names_both(install, run):
    sites = [key_norm(install), key_norm(install, dist="tr-other")]
    done = run("info", "key-norm", sites=sites)
    assert done.returncode == 2
    assert "tr-key-norm 1.2.3" in done.stderr and "tr-other 1.2.3" in done.stderr
    disabled = run("info", "key-norm", sites=sites, TOKENREDUCE_DISABLE_PLUGINS="tr-other")
    assert disabled.returncode == 0
    assert "tr-key-norm 1.2.3" in disabled.stdout


def test_two_plugins_of_one_name(install, run):
    sites = [
        install("tr-one", {"__init__.py": HOOK.format(name="one", target="a:B")}, plugin="same"),
        install("tr-two", {"__init__.py": HOOK.format(name="two", target="a:B")}, plugin="same"),
    ]
    listed = json.loads(run("list", "--json", sites=sites).stdout)
    (broken,) = [b for b in listed["broken"] if b["plugin"] == "same"]
    assert "tr-one" in broken["reason"] and "tr-two" in broken["reason"]


def test_a_plugin_cannot_take_a_built_in_name_silently(install, run):
    site = key_norm(install, name="pumer", dist="tr-pumer")
    done = run("info", "pumer", sites=[site])
    assert done.returncode == 2
    assert re.search(r"tr-pumer 1\.2\.3.*tokenreduce|tokenreduce.*tr-pumer 1\.2\.3", done.stderr, re.S)


def test_disabled_built_in(run):
    done = run("list", TOKENREDUCE_DISABLE_PLUGINS="tome, evit")
    assert "disabled by TOKENREDUCE_DISABLE_PLUGINS: evit, tome" in done.stdout
    assert run("info", "tome", TOKENREDUCE_DISABLE_PLUGINS="tome").returncode == 2
