"""From a name to a task: which loader is asked, and what is said when none can."""

import json

import pytest

import tokenreduce
from tokenreduce.cli import main
from tokenreduce.errors import OptionError, PluginError, UnknownNameError, UnsupportedModelError
from tokenreduce.registry import Broken, Entry, LoaderSpec, Registry, TaskSpec, rescan
from tokenreduce.tasks import Record
from tokenreduce.tasks.loading import load_task

THIRD_PARTY = """
import tokenreduce

@tokenreduce.registry.hookimpl
def tokenreduce_loaders():
    yield tokenreduce.registry.LoaderSpec("zoo", "tr_zoo.loader:Zoo", "models of my zoo", models="zoo/NAME")
"""
ZOO = """
import timm
import torch
import tokenreduce
from tokenreduce.tasks.batches import RecordBatches

class Zoo(tokenreduce.tasks.Loader):
    def accepts(self, name):
        return name.startswith("zoo/")

    def task(self, name, records):
        model = timm.create_model("test_vit", num_classes=2).eval()

        def prepare(images, texts):
            return {"x": torch.stack([torch.full((3, 160, 160), image.getpixel((0, 0))[0] / 255) for image in images])}

        return tokenreduce.Task(
            "mine",
            model,
            lambda samples, batch: RecordBatches(records[:samples], batch, prepare),
            lambda output, asked: torch.tensor([float(one.answer == "yes") for one in asked]),
            prepare=prepare,
        )
"""


class Fake(tokenreduce.tasks.Loader):
    """Takes names with its word in them; subclasses below fail in their ways."""

    word = "fake"

    def accepts(self, name):
        return self.word in name

    def task(self, name, records):
        return tokenreduce.Task(f"made of {name} with {len(records)}", None, None, None)


class Second(Fake):
    pass


class Guesses(Fake):
    guesses = True


class FailsToSay(Fake):
    def accepts(self, name):
        raise RuntimeError("the plugin's mistake")


class FailsToMake(Fake):
    def task(self, name, records):
        raise RuntimeError("the plugin's mistake")


class NoTask(Fake):
    def task(self, name, records):
        return "a task"


class Refuses(Fake):
    def task(self, name, records):
        raise UnsupportedModelError("not one of mine")


def registry(library: str = "", **kinds: type) -> Registry:
    """A registry with these loaders and the task "digits"."""
    made = Registry()
    for name, kind in kinds.items():
        target = f"{kind.__module__}:{kind.__qualname__}"
        spec = LoaderSpec(name, target, "models", library=library, models=f"whatever {name} takes")
        made.loaders[name] = Entry(spec, name, f"tr-{name}", "1.0")
    target = f"{Fake.__module__}:a_task"
    made.tasks["digits"] = Entry(TaskSpec("digits", target, "digits"), "digits", "tr-digits", "1.0")
    return made


def a_task():
    return tokenreduce.Task("digits", None, None, None)


def test_a_task_of_the_registry_comes_first(lines, pictures):
    both = registry(fake=Fake)
    assert load_task(both, "digits", None).name == "digits"
    (name,) = pictures(1)
    with pytest.raises(OptionError, match=r"'digits' has its own data; leave '.*jsonl'"):
        load_task(both, "digits", lines([{"image": name}]))


def test_the_first_that_accepts_or_the_one_that_is_named(lines, pictures):
    both = registry(fake=Fake, second=Second)
    assert load_task(both, "a/fake").name == "a/fake"
    (name,) = pictures(1)
    assert load_task(both, "second:anything", lines([{"image": name}])).name == "second:anything"
    with pytest.raises(OptionError, match="type second:NAME"):
        load_task(both, "second:")
    with pytest.raises(OptionError, match="line 1"):
        load_task(both, "a/fake", lines(["{"]))


def test_a_loader_that_guesses_comes_last():
    with pytest.raises(UnsupportedModelError, match="loader 'second'"):
        load_task(registry(first=Guesses, second=Refuses), "a/fake")
    assert load_task(registry(first=Guesses), "a/fake").name == "a/fake"


def test_a_refusal_names_the_loader_and_the_others():
    with pytest.raises(UnsupportedModelError, match=r"not one of mine\. \(Read by the loader 'first'; .*second"):
        load_task(registry(first=Refuses, second=Second), "a/fake")
    with pytest.raises(UnsupportedModelError, match=r"not one of mine$"):
        load_task(registry(first=Refuses, second=Second), "first:a/fake")


def test_no_loader_accepts_it(tmp_path):
    with pytest.raises(UnknownNameError) as caught:
        load_task(registry(fake=Fake, broken=FailsToSay), "digit")
    for word in (
        "'digit'",
        "'digits'",
        "whatever fake takes",
        "LOADER:NAME",
        "the plugin's mistake",
        "tr-broken 1.0",
    ):
        assert word in str(caught.value)
    with pytest.raises(UnknownNameError, match="is here, but no loader knows what is in it"):
        load_task(registry(fake=Fake), str(tmp_path))
    with pytest.raises(UnknownNameError, match="pip install no_such_library"):
        load_task(registry("no_such_library", fake=Fake), "a/fake")
    with pytest.raises(PluginError, match="'fake' needs no_such_library: pip install no_such_library"):
        load_task(registry("no_such_library", fake=Fake), "fake:it")
    with pytest.raises(UnknownNameError):
        load_task(Registry(), "x")


def test_a_loader_that_fails_is_named():
    assert load_task(registry(a=FailsToSay, b=Fake), "a/fake").name == "a/fake"
    with pytest.raises(PluginError, match=r"'a' of tr-a 1\.0 .* failed on 'a/fake': RuntimeError: the plugin"):
        load_task(registry(a=FailsToMake), "a/fake")
    with pytest.raises(PluginError, match=r"must give a tokenreduce\.Task, got str"):
        load_task(registry(a=NoTask), "a/fake")
    with pytest.raises(PluginError, match=r"not a subclass of tokenreduce\.tasks\.Loader"):
        load_task(registry(a=int), "a:fake")
    broken = registry(b=Fake)
    broken.broken.append(Broken("p", "tr-p", "1.0", "it clashes", ("a",)))
    with pytest.raises(PluginError, match="it clashes"):
        load_task(broken, "a:fake")
    with pytest.raises(PluginError, match="it clashes"):
        load_task(broken, "a")


def test_the_base_class_says_what_is_missing():
    with pytest.raises(OptionError, match="accepts"):
        tokenreduce.tasks.Loader().accepts("x")
    with pytest.raises(OptionError, match="task"):
        tokenreduce.tasks.Loader().task("x", [Record("x")])


def test_loaders_say_what_they_take_without_their_library(tmp_path):
    made = tokenreduce.registry.default_registry()
    assert list(made.loaders) == ["meter", "open_clip", "timm", "transformers"]
    takes = {name: made.load("loader", name)().accepts for name in made.loaders}
    folders = {}
    for kind, (file, content) in {
        "transformers": ("config.json", {"architectures": ["ViTForImageClassification"]}),
        "timm": ("config.json", {"architecture": "vit_tiny_patch16_224"}),
        "open_clip": ("open_clip_config.json", {"model_cfg": {}}),
        "none": ("config.json", ["a list"]),
    }.items():
        folders[kind] = tmp_path / kind
        folders[kind].mkdir()
        (folders[kind] / file).write_text(json.dumps(content))
    meter = tmp_path / "meter"
    meter.mkdir()
    (meter / "config.json").write_text(json.dumps({"model_type": "meter", "architectures": ["Meter"]}))

    def first(name):
        return next((loader for loader, accepts in takes.items() if accepts(str(name))), None)

    expected = {
        "dandelin/vilt-b32-finetuned-vqa": "transformers",
        "timm/vit_tiny_patch16_224.augreg_in21k": "timm",
        "hf-hub:timm/vit_tiny_patch16_224": "timm",
        "hf-hub:laion/CLIP-ViT-B-32": "open_clip",
        f"local-dir:{folders['timm']}": "timm",
        f"local-dir:{folders['open_clip']}": "open_clip",
        str(meter): "meter",
        **{str(path): None if kind == "none" else kind for kind, path in folders.items()},
        "vilt": None,
        "./no/folder": None,
        "../up": None,
        "/no/folder": None,
        "a/b/c": None,
        "": None,
    }
    assert {name: first(name) for name in expected} == expected


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A plugin with a loader, laid out on the path as pip lays it out."""
    site = tmp_path / "site"
    (site / "tr_zoo").mkdir(parents=True)
    (site / "tr_zoo" / "__init__.py").write_text(THIRD_PARTY)
    (site / "tr_zoo" / "loader.py").write_text(ZOO)
    (site / "tr_zoo-1.2.3.dist-info").mkdir()
    (site / "tr_zoo-1.2.3.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tr-zoo\nVersion: 1.2.3\n")
    (site / "tr_zoo-1.2.3.dist-info" / "entry_points.txt").write_text("[tokenreduce]\nzoo = tr_zoo\n")
    monkeypatch.syspath_prepend(site)
    rescan()
    yield
    monkeypatch.undo()
    rescan()


def test_a_third_party_loader_is_found(zoo, load, judge, lines, pictures, capsys):
    """Installed: listed, described, and asked by the name it takes."""
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (entry,) = [entry for entry in listed["loaders"] if entry["name"] == "zoo"]
    assert (entry["distribution"], entry["version"]) == ("tr-zoo", "1.2.3")
    assert "presets" in listed
    assert main(["info", "zoo"]) == 0
    text = capsys.readouterr().out
    for word in ("zoo (loader): models of my zoo", "zoo/NAME", "no library needed", "tr-zoo 1.2.3"):
        assert word in text
    one, two = pictures(2)
    data = lines([{"image": one, "answer": "yes"}, {"image": two, "answer": "no"}])
    for name in ("zoo/small", "zoo:small"):
        task = load(name, data)
        assert task.name == name
        assert judge(task, "random", keep=0.5) == [1.0, 0.0]


def test_list_and_info_of_loaders_and_presets(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("loaders", "presets", "transformers", "open_clip"):
        assert word in text
    assert main(["info", "transformers"]) == 0
    text = capsys.readouterr().out
    assert "transformers (loader)" in text and "ViltForQuestionAnswering" in text and "is installed" in text
