"""``tokenreduce list --check``, and plugins for another interface; the plugins are really installed."""

import json

import pytest

HOOK = """
import tokenreduce

@tokenreduce.registry.hookimpl
def tokenreduce_reducers():
    yield tokenreduce.registry.ReducerSpec("{name}", "{target}", "keep tokens with long keys")
"""
ADAPTER = """
import tokenreduce

@tokenreduce.registry.hookimpl
def tokenreduce_adapters():
    yield tokenreduce.registry.AdapterSpec("{name}", "{package}.code:Good", "a reducer", library="{library}")
"""
CODE = """
import tokenreduce

class Good(tokenreduce.Reducer):
    def reduce(self, tokens, signals, remove):
        return tokens.keep_top(tokens.x.norm(dim=-1), remove=remove)

class Other:
    pass
"""


@pytest.fixture
def third_party(install):
    """Install a plugin of one reducer; ``attribute`` of its code is what the spec names."""

    def make(name, attribute="Good", *, interface=None, **options):
        package = name.replace("-", "_")
        hook = HOOK.format(name=name, target=f"{package}.code:{attribute}")
        declared = "" if interface is None else f"tokenreduce_interface = {interface!r}\n"
        return install(name, {"__init__.py": hook + declared, "code.py": CODE}, **options)

    return make


@pytest.fixture
def alone(run):
    """Run with the third-party plugins only."""

    def call(*args, **options):
        listed = json.loads(run("list", "--json").stdout)
        names = {entry["plugin"] for kind in listed.values() if isinstance(kind, list) for entry in kind}
        return run(*args, TOKENREDUCE_DISABLE_PLUGINS=",".join(sorted(names)), **options)

    return call


@pytest.mark.sweep
def test_plugins_in_order_are_reported_so(third_party, alone, tmp_path):
    sites = [third_party("tr-good"), third_party("tr-present", interface=1), third_party("tr-editable", editable=True)]
    sites.append(tmp_path / "src-tr-editable")  # what the .pth file of an editable install adds
    done = alone("list", "--check", sites=sites)
    assert (done.returncode, done.stdout.strip()) == (0, "3 specs: all in order")
    data = json.loads(alone("list", "--check", "--json", sites=sites).stdout)
    assert data == {"checked": 3, "problems": [], "skipped": []}


def test_every_problem_is_one_line_that_names_the_distribution(install, third_party, alone, tmp_path):
    shadow = tmp_path / "shadow" / "tr_shadowed"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(HOOK.format(name="tr-shadowed", target="tr_shadowed.code:Good"))
    (shadow / "code.py").write_text(CODE)
    unmarked = HOOK.format(name="x", target="a:B").replace("@tokenreduce.registry.hookimpl\n", "")
    odd = HOOK.format(name="x", target="a:B").replace("def tokenreduce_reducers", "def methods")
    adapter = ADAPTER.format(name="not-an-adapter", package="tr_adapter", library="json")
    waiting = ADAPTER.format(name="waiting", package="tr_waiting", library="no_such_library")
    sites = [
        shadow.parent,
        third_party("tr-good"),
        third_party("tr-shadowed"),
        third_party("tr-kind", "Other"),
        third_party("tr-gone", "NoSuchClass"),
        third_party("tr-old", interface=0),
        third_party("tr-new", interface=99),
        third_party("tr-odd", interface="1"),
        install("tr-unmarked", {"__init__.py": unmarked}),
        install("tr-named", {"__init__.py": odd}),
        install("tr-hook", {"__init__.py": "import sys\nsys.exit('enough')\n"}),
        install("tr-adapter", {"__init__.py": adapter, "code.py": CODE}),
        install("tr-waiting", {"__init__.py": waiting, "code.py": CODE}),
    ]
    done = alone("list", "--check", sites=sites)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    wanted = {
        "tr-shadowed": f"was imported from {shadow}",
        "tr-kind": "tr_kind.code:Other must be a subclass of tokenreduce.Reducer, got the class tr_kind.code.Other",
        "tr-gone": "cannot load 'tr_gone.code:NoSuchClass'",
        "tr-old": "written against interface 0, this tokenreduce has 1: install a newer version of the plugin",
        "tr-new": "written against interface 99, this tokenreduce has 1: install a newer tokenreduce",
        "tr-odd": "tokenreduce_interface must be a whole number (now: 1), got '1'",
        "tr-unmarked": "tokenreduce_reducers is not marked as a hook, so nothing calls it; put @hookimpl",
        "tr-named": "unknown hook 'methods'",
        "tr-hook": "SystemExit: enough",
        "tr-adapter": "tr_adapter.code:Good must be a subclass of tokenreduce.backbones.Adapter",
        "tr-waiting": "no_such_library is not installed",
    }
    for name, reason in wanted.items():
        (line,) = [line for line in lines if f"{name} 1.2.3" in line]
        assert reason in line
        assert line.startswith("not checked: ") == (name == "tr-waiting")
    assert len(lines) == len(wanted)
    listed = alone("list", sites=sites, COLUMNS="200")
    assert listed.returncode == 0
    assert "tr-good" in listed.stdout and "interface 99" in listed.stdout
    unknown = alone("info", "tr-anything", sites=sites)
    assert unknown.returncode == 2
    assert "broken: " in unknown.stderr and "plugin 'tr-hook' of tr-hook 1.2.3" in unknown.stderr
    refused = alone("info", "tr-old", sites=sites)
    assert refused.returncode == 2
    assert "tr-old 1.2.3" in refused.stderr and "interface 0" in refused.stderr


def test_a_name_left_out_is_not_checked(third_party, alone, run):
    site = third_party("tr-kind", "Other")
    assert alone("list", "--check", sites=[site]).returncode == 1
    listed = json.loads(run("list", "--json").stdout)
    names = {entry["plugin"] for kind in listed.values() if isinstance(kind, list) for entry in kind}
    disabled = ",".join([*names, "tr-kind"])
    assert run("list", "--check", sites=[site], TOKENREDUCE_DISABLE_PLUGINS=disabled).returncode == 0
