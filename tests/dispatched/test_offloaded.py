"""Models that accelerate spreads over places or offloads: they answer as the same model in memory does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError

from .models import CASES, FIRST, SWEEP, WAYS, case, ways

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys")  # of weights that no submodule holds


def instances(model: nn.Module) -> Any:
    """What every module has of its own, by identity; Qwen keeps the positions of the last prompt on the model."""
    own = [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    return [{key: value for key, value in one.items() if key != "rope_deltas"} for one in own]


def traces(model: nn.Module) -> list[str]:
    """Where something of this library is left on a model, functions that hooks have made of ours among them."""
    found = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            inside = (
                [value, *getattr(value, "__dict__", {}).values()] if key in ("forward", "_old_forward") else [value]
            )
            if any(type(one).__module__.startswith("tokenreduce.") for one in inside):
                found.append(f"{name}.{key}")
    return found


@pytest.mark.parametrize(
    ("name", "reducer"), [pytest.param(*one, marks=SWEEP if one not in FIRST else ()) for one in CASES]
)
def test_attached_to_a_model_that_is_spread_out(name, reducer, tmp_path):
    given = case(name)
    plain, (method, options) = given.run(given.model), given.reducers[reducer]
    with tokenreduce.attach(given.model, method, **options):
        expected = given.run(given.model)
    assert not torch.equal(expected, plain)
    for number, way in enumerate(["blocks, some on disk"] if (name, reducer) in FIRST else WAYS):
        model = ways(tmp_path / str(number))[way](case(name).model)
        assert torch.equal(given.run(model), plain), way
        before = instances(model)
        handle = tokenreduce.attach(model, method, **options)
        assert torch.equal(given.run(model), expected), way
        with handle.paused():
            assert torch.allclose(given.run(model), plain, atol=1e-4), way
        assert str(handle)
        handle.detach()
        assert instances(model) == before, way
        assert torch.equal(given.run(model), plain), way


@pytest.mark.parametrize("name", ["vit", pytest.param("meter", marks=SWEEP), "llava"])
def test_attached_before_it_is_spread_out(name, tmp_path):
    given = case(name)
    plain, (method, options) = given.run(given.model), next(iter(given.reducers.values()))
    for number, way in enumerate(WAYS):
        model = case(name).model
        handle = tokenreduce.attach(model, method, **options)
        expected = given.run(model)
        model = ways(tmp_path / str(number))[way](model)
        assert torch.equal(given.run(model), expected), way
        assert tokenreduce.attachment(model) is handle
        handle.detach()
        assert torch.equal(given.run(model), plain), way
        assert not traces(model), way
        with tokenreduce.attach(model, method, **options):
            assert torch.equal(given.run(model), expected), way


def test_hooks_that_are_taken_off_while_attached(tmp_path):
    from accelerate.hooks import remove_hook_from_module

    given = case("vit")
    plain = given.run(given.model)
    model = ways(tmp_path)["blocks"](case("vit").model)
    handle = tokenreduce.attach(model, "tome", r=3)
    expected = given.run(model)
    remove_hook_from_module(model, recurse=True)
    assert torch.equal(given.run(model), expected)
    handle.detach()
    assert torch.equal(given.run(model), plain)
    assert not traces(model)


def test_a_learnable_reducer_in_a_model_that_is_offloaded(tmp_path):
    from accelerate import cpu_offload

    given = case("vit")
    model = given.model
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2])
    expected = given.run(model)
    cpu_offload(model, torch.device("cpu"))  # the reducer's weights too
    assert next(model.tokenreduce.parameters()).is_meta
    assert torch.equal(given.run(model), expected)
    handle.detach()
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2])
    assert not any(weight.is_meta for weight in model.tokenreduce.parameters())
    assert given.run(model).isfinite().all()


@pytest.mark.parametrize("name", ["llava", pytest.param("qwen", marks=SWEEP)])
def test_generate(name, tmp_path):
    given = case(name)
    more = {"max_new_tokens": 5, "do_sample": False}
    for method, options in (("random", {"keep": 4}), ("fastv", {"layers": [0], "keep": 0.5})):
        for extra in ({}, {"num_beams": 2}):
            with tokenreduce.attach(given.model, method, **options):
                expected = given.model.generate(**given.inputs, **more, **extra)
            model = ways(tmp_path / f"{method}{len(extra)}")["blocks, some on disk"](case(name).model)
            handle = tokenreduce.attach(model, method, **options)
            assert torch.equal(model.generate(**given.inputs, **more, **extra), expected)
            assert handle.last.tokens["image"] < handle.last.initial["image"]


def test_a_hook_that_does_more_than_move_is_refused_where_it_would_not_act():
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Doubles(ModelHook):
        def post_forward(self, module, output):
            return 2 * output

    given = case("vit")
    add_hook_to_module(given.model.blocks[1], Doubles())  # the whole block is called
    with tokenreduce.attach(given.model, "none"):
        assert torch.allclose(given.run(given.model), given.run(copy.deepcopy(given.model)), atol=1e-5)
    add_hook_to_module(given.model.blocks[1].attn, Doubles())
    with pytest.raises(UnsupportedModelError, match=r"'attn' in block 1 .* a hook of accelerate that does more"):
        tokenreduce.attach(given.model, "tome", r=2)


@pytest.mark.parametrize("kind", ["torchvision", "eva"])
def test_a_model_that_fails_under_offload_by_itself_runs_with_a_reducer(kind, images):
    """They use weights of modules that they do not call; the engine brings those."""
    from accelerate import cpu_offload

    if kind == "eva":
        from timm.models.eva import Eva

        model = Eva(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=7).eval()
    else:
        from torchvision.models import VisionTransformer

        sizes = {"num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
        model = VisionTransformer(image_size=32, patch_size=8, num_classes=5, **sizes).eval()
        torch.nn.init.normal_(model.heads.head.weight)
    with torch.no_grad():
        with tokenreduce.attach(model, "tome", r=2):
            expected = model(images())
        cpu_offload(model, torch.device("cpu"))
        tokenreduce.attach(model, "tome", r=2)
        assert torch.equal(model(images()), expected)


def test_a_patch_beneath_a_hook_is_refused(tmp_path):
    model = case("vit").model
    model.blocks[1].forward = lambda x: x
    ways(tmp_path)["blocks"](model)
    with pytest.raises(UnsupportedModelError, match=r"on the instance by a patch.*Hooks of accelerate may stay"):
        tokenreduce.attach(model, "tome", r=2)


def test_what_is_put_over_a_hooked_replacement_is_undone_first(tmp_path):
    model = ways(tmp_path)["blocks"](case("vit").model)
    handle = tokenreduce.attach(model, "tome", r=2)
    ours = model.blocks[0]._old_forward
    model.blocks[0]._old_forward = lambda x, run: ours(x, run=run)
    with pytest.raises(UnsupportedCallError, match="replaced after attach"):
        handle.detach()
    model.blocks[0]._old_forward = ours
    handle.detach()
    assert not traces(model)


def test_measures_of_a_model_that_is_offloaded(tmp_path):
    from tokenreduce.measure import calibrate
    from tokenreduce.measure.memory import peak_activation_bytes
    from tokenreduce.measure.overhead import overhead

    given = case("vit")
    data = [given.inputs]
    asked = {"option": "keep", "mean_keep": 8, "layers": [1]}
    expected = calibrate(given.model, "evit", data, **asked)
    in_memory = peak_activation_bytes(given.model, given.inputs)
    macs = tokenreduce.count_macs(given.model, given.inputs)
    model = ways(tmp_path)["disk_offload"](case("vit").model)
    assert calibrate(model, "evit", data, **asked) == expected
    with torch.no_grad():
        assert peak_activation_bytes(model, given.inputs) >= in_memory
    assert tokenreduce.count_macs(model, given.inputs) == macs
    with tokenreduce.attach(model, "tome", r=3) as handle:
        assert 0 < overhead(handle, given.inputs, rounds=1) < 1


def test_a_guide_goes_where_the_model_runs(tmp_path):
    given = case("clip")
    text = torch.randn(16)
    model = ways(tmp_path)["cpu_offload"](given.model)
    with tokenreduce.attach(model, "pumer", guide=text) as handle:
        assert given.run(model).isfinite().all()
        with handle.guide(-text):
            assert given.run(model).isfinite().all()


def test_an_ablation_keeps_no_cells_of_weights_that_are_elsewhere(tmp_path):
    from tokenreduce.tasks.identity import Identity

    walk = Identity(code=False)
    walk.of(ways(tmp_path)["disk_offload"](case("vit").model))
    assert any("not in memory" in reason for reason in walk.unknown)
