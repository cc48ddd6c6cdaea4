"""What a value's behaviour depends on, as a hash: of contents, closures, code, and what nobody can tell."""

import dataclasses
import functools
import subprocess
import sys
import threading
from collections import deque
from enum import Enum

import numpy as np
import pytest
import torch
from torch import nn

from tokenreduce.tasks import Batch
from tokenreduce.tasks.fingerprint import model_fingerprint, sample_fingerprints
from tokenreduce.tasks.identity import Identity
from tokenreduce.tasks.packages import is_library, package_fingerprint, source_fingerprints

FACTOR = 2
LOCK = threading.Lock()


def identity(value, **options):
    """The hash, of something that can be told in full."""
    walk = Identity(**options)
    found = walk.of(value)
    assert not walk.unknown, walk.unknown
    return found


def closing_over(names, k=1):
    return lambda output: [names[i] for i in output.topk(k)]


def scaled(output, by=2):
    return output * by * FACTOR


class Metric:
    def __init__(self, k):
        self.k = k

    def __call__(self, output):
        return output.topk(self.k)

    def method(self, output):
        return output[: self.k]


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Option:
    keep: float
    layers: tuple = ()


def made(sign):
    class Method:
        def score(self, x):
            return sign * x

    return Method


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closing_over(["a", "b"]), closing_over(["b", "a"])),
        (closing_over(["a"], 1), closing_over(["a"], 3)),
        (functools.partial(scaled, by=1), functools.partial(scaled, by=2)),
        (functools.partial(scaled, 1), functools.partial(scaled, 2)),
        (Metric(1), Metric(3)),
        (Metric(1).method, Metric(3).method),
        (Metric(1), Metric(1).method),
        (Metric, Option),
        (made(1), made(-1)),
        (made(1)(), made(-1)()),
        (lambda x, k=1: x, lambda x, k=2: x),
        (lambda x, *, k=1: x, lambda x, *, k=2: x),
        (lambda x: x + 1, lambda x: x - 1),
        (lambda x: x.sum(), lambda x: x.mean()),
        (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
        (torch.tensor([1.0]).mul, torch.tensor([2.0]).mul),
        (Option(0.5), Option(0.7)),
        (Colour.RED, Colour.BLUE),
        (np.arange(5000), np.arange(5000) + (np.arange(5000) == 2500)),  # alike where they are printed
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16)),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {1, 3}),
        (deque([1]), [1]),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ("ab", ("a", "b")),
        (b"a", "a"),
        (slice(1), slice(2)),
        (torch.float32, torch.float64),
        (nn.Linear(2, 2), nn.Linear(2, 2)),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (property(lambda self: 1), property(lambda self: 2)),
        (staticmethod(lambda: 1), staticmethod(lambda: 2)),
    ],
)
def test_what_behaves_otherwise_has_another_hash(one, other):
    assert identity(one) != identity(other)
    assert identity(one) == identity(one) and identity(other) == identity(other)


def test_what_behaves_alike_has_one():
    assert identity(closing_over(["a"])) == identity(closing_over(["a"]))
    assert identity(Metric(1).method) == identity(Metric(1).method)
    assert identity(made(1)) == identity(made(1)) and identity({"x", "y"}) == identity({"y", "x"})
    assert identity(Option(0.5, (1, 2))) == identity(Option(0.5, (1, 2)))


def test_a_global_that_is_named_counts_and_others_do_not(monkeypatch):
    before = identity(scaled)
    monkeypatch.setitem(globals(), "ANOTHER", 1)
    assert identity(scaled) == before
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert identity(scaled) != before


def test_a_list_of_calls_and_a_counter_are_no_part_of_what_is_computed():
    calls, count = [], [0]

    def counted(output):
        calls.append(1)
        count[0] += 1
        return output

    before = identity(counted)
    counted(0)
    assert identity(counted) == before
    names = ["a"]
    before = identity(lambda output: names[output])
    names.append("b")
    assert identity(lambda output: names[output]) != before


def test_a_variable_of_the_same_name_inside_hides_no_global(monkeypatch):
    def metric(output):
        def inside():
            FACTOR = 5
            return (lambda: FACTOR)()

        return output * inside(), [FACTOR for _ in output]

    before = identity(metric)
    monkeypatch.setitem(globals(), "FACTOR", 9)
    assert identity(metric) != before


def test_what_goes_around_in_a_circle_ends():
    one, other = [1], [1]
    one.append(one)
    other.append(other)
    assert identity(one) == identity(other)

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert identity(recursive) == identity(recursive)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((i for i in range(3)), "generator"),
        (lambda: None, ""),
        (functools.partial(print, LOCK), "lock"),
        (closing_over(map(str, [1])), ""),
        (Metric(i for i in "ab"), "generator"),
        ([[[LOCK]]], "lock"),
    ],
)
def test_what_nobody_can_tell_is_said(value, kind):
    walk = Identity()
    walk.of(value)
    assert bool(walk.unknown) == bool(kind) and kind in " ".join(walk.unknown)


def test_nesting_without_end_is_told_as_that():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    walk = Identity()
    walk.of(deep)
    assert "too deep" in walk.unknown[0]


def test_functions_that_read_files_are_named():
    walk = Identity()
    walk.of(lambda output: open("names.txt").read()[output])  # noqa: SIM115, PTH123
    assert "uses open" in walk.reads[0]
    walk = Identity()
    walk.of(lambda output: output.eval().open())  # methods of those names are something else
    assert not walk.reads


class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.linear, self.scale = nn.Linear(2, 2), scale

    def forward(self, x):
        return self.scale * self.linear(x)


def net(**options):
    torch.manual_seed(0)
    return Net(**options)


def test_a_models_attributes_hooks_and_own_methods_count():
    assert model_fingerprint(net()) == model_fingerprint(net().train()) == model_fingerprint(net().eval())
    assert model_fingerprint(net()) != model_fingerprint(net(scale=2.0))
    hooked, replaced = net(), net()
    hooked.linear.register_forward_hook(lambda module, inputs, output: output + 1)
    assert identity(hooked) != identity(net())
    replaced.forward = lambda x: x
    assert identity(replaced) != identity(net())
    changed = net()
    changed.linear.bias.data += 1
    assert model_fingerprint(changed) != model_fingerprint(net())


def test_samples_by_all_that_they_hold():
    targets = np.arange(6000).reshape(2, 3000)
    other = targets.copy()
    other[1, 1500] = -1
    one, two = (sample_fingerprints(Batch({"x": torch.zeros(2, 3)}, t)) for t in (targets, other))
    assert one[0] == two[0] and one[1] != two[1]
    scalar = sample_fingerprints(Batch({"x": torch.zeros(2, 3), "t": torch.tensor(1.0)}, ["a", "b"]))
    assert scalar[0] != scalar[1]
    unknown = []
    sample_fingerprints(Batch({"x": torch.zeros(1, 3)}, [1, LOCK]), unknown)
    assert "lock" in unknown[0]


CODE = """
import sys; sys.path[:0] = {path!r}
import tests_of_identity as t
from tokenreduce.tasks.identity import Identity
walk = Identity()
print(walk.of([t.metric(["b", "a"]), t.Kind, {{"x", "y", "z"}}, t.Kind(3)]), sorted(walk.packages))
"""
MODULE = """
import helper
class Kind:
    names = {"p", "q", "r"}
    def __init__(self, k): self.k = k
    def __call__(self, o): return helper.score(o) + self.k
def metric(names):
    return lambda o: names[o]
"""


@pytest.mark.sweep
def test_it_is_the_same_in_another_process_and_changes_with_the_source(tmp_path):
    (tmp_path / "tests_of_identity.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text("def score(o):\n    import deeper\n    return deeper.score(o)\n")
    (tmp_path / "deeper.py").write_text("def score(o):\n    return o\n")

    def run(seed, code=CODE):
        command = [sys.executable, "-B", "-c", code.format(path=[str(tmp_path)])]
        done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run("1")
    assert first == run("2") and "'tests_of_identity'" in first
    packages = CODE + "from tokenreduce.tasks.packages import source_fingerprints\n"
    packages += "print(source_fingerprints(walk.packages)['deeper'])\n"
    before = run("1", packages)
    (tmp_path / "deeper.py").write_text("def score(o):\n    return -o\n")  # imported inside a function of an import
    assert run("1", packages) != before
    (tmp_path / "helper.py").write_text("def score(o):\n    return 0\n")
    assert run("1") != first


def test_packages_that_are_installed_for_good_and_those_that_are_not():
    assert is_library("json") and is_library("torch") and is_library("numpy") and not is_library("__main__")
    assert not is_library("no_such_package") and package_fingerprint("json") == sys.version
    found = source_fingerprints(["__main__", "no_such_package", "numpy"])
    assert list(found) == ["numpy"]


@functools.cache
def cached(output):
    return output * FACTOR


def test_decorated_functions_count_by_what_they_wrap(monkeypatch):
    before = identity(cached)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert identity(cached) != before


def test_a_module_that_is_imported_as_a_function_runs_counts(monkeypatch):
    import types

    settings = types.ModuleType("settings_of_test")
    settings.K = 1
    monkeypatch.setitem(sys.modules, "settings_of_test", settings)

    def metric(output):
        import settings_of_test

        return output.topk(settings_of_test.K)

    before = identity(metric)
    settings.OTHER = 3
    assert identity(metric) == before
    settings.K = 3
    assert identity(metric) != before
