"""From traces to owners of patches."""

import pytest
import torch

import tokenreduce
from tokenreduce.errors import UnsupportedCallError
from tokenreduce.report.patch_map import Leg, patch_owners, trace_legs


def owners_of(task, reducer, samples=3, **options):
    (batch,) = task.data(samples, samples)
    with tokenreduce.attach(task.model, reducer, trace=True, **options) as handle, torch.inference_mode():
        task.model(**batch.inputs)
        return handle, [patch_owners(handle, (48, 48), (4, 4), i) for i in range(samples)]


def test_without_reduction_every_patch_is_its_own(embedded):
    for name, text in (("vilt-digits", 8), ("clip-digits", 0)):
        _, found = owners_of(embedded(name), "none")
        for grid, owner in found:
            assert grid == (12, 12)
            assert owner == [text + 1 + i for i in range(144)]  # behind the text and the class token


@pytest.mark.parametrize("reducer", ["random", "evit", "pumer", "tome"])
@pytest.mark.parametrize("name", ["vilt-digits", "clip-digits", "meter-digits"])
def test_owners_agree_with_the_trace(embedded, name, reducer):
    made = embedded(name)
    options = {k: v for k, v in made.settings.get(reducer, {}).items() if k != "layers"}
    layers = made.settings.get(reducer, {}).get("layers")
    handle, found = owners_of(made, reducer, layers=layers, **options)
    trace = handle.last.trace
    for sample, (_, owner) in enumerate(found):
        assert len(owner) == 144 and all(-1 <= token < trace.tokens for token in owner)
        begin = sum(length for stream, length in trace.first.items() if stream != "image") + 1
        for token, members in enumerate(trace[sample]):
            assert [begin + patch for patch in range(144) if owner[patch] == token] == [
                m for m in members if m >= begin
            ]
        assert len(set(owner)) < 144


def test_two_stacks_are_followed_in_the_order_of_the_data(embedded):
    made = embedded("meter-digits")
    for stacks in ({"cross": "none", "vision": "tome"}, {"vision": "tome", "cross": "none"}):
        _, both = owners_of(made, {s: {"reducer": r, **({"r": 20} if r == "tome" else {})} for s, r in stacks.items()})
        _, alone = owners_of(made, {"vision": {"reducer": "tome", "r": 20}})
        for (_, ours), (_, theirs) in zip(both, alone, strict=True):
            groups = {token: [p for p in range(144) if theirs[p] == token] for token in set(theirs)}
            assert sorted(groups.values()) == sorted([p for p in range(144) if ours[p] == t] for t in set(ours))


def test_what_the_first_stack_drops_stays_dropped(embedded):
    stacks = {"cross": {"reducer": "random", "keep": 0.5}, "vision": {"reducer": "random", "keep": 0.5}}
    _, both = owners_of(embedded("meter-digits"), stacks)
    _, alone = owners_of(embedded("meter-digits"), {"vision": {"reducer": "random", "keep": 0.5}})
    for (_, ours), (_, theirs) in zip(both, alone, strict=True):
        assert all(ours[p] == -1 for p in range(144) if theirs[p] == -1)
        assert sum(token >= 0 for token in ours) < sum(token >= 0 for token in theirs)


def test_padding_has_no_owner_and_real_patches_keep_their_place(tiny_vilt, vilt_inputs):
    model = tiny_vilt()
    inputs = vilt_inputs(batch=2, height=32, width=32, sizes=[(16, 24), (24, 16)])
    with tokenreduce.attach(model, "none", trace=True) as handle, torch.inference_mode():
        model(**inputs)
        for sample, (rows, columns) in enumerate([(2, 3), (3, 2)]):
            grid, owner = patch_owners(handle, (32, 32), (8, 8), sample, inputs["pixel_mask"])
            assert grid == (4, 4)
            real = [row * 4 + column for row in range(rows) for column in range(columns)]
            assert [p for p in range(16) if owner[p] >= 0] == real
            assert [owner[p] for p in real] == [8 + i for i in range(6)]  # 7 of text, the class token
        with pytest.raises(UnsupportedCallError, match="mask"):
            patch_owners(handle, (32, 32), (8, 8))


def test_registers_come_first(tiny_vit, images):
    model = tiny_vit(reg_tokens=3)
    with tokenreduce.attach(model, "none", trace=True) as handle, torch.inference_mode():
        model(images())
        assert patch_owners(handle, (32, 32), (8, 8))[1] == [4 + i for i in range(16)]
        with pytest.raises(UnsupportedCallError, match="no patch"):
            patch_owners(handle, (4, 32), (8, 8))
        with pytest.raises(tokenreduce.errors.NoForwardError, match="2 samples"):
            patch_owners(handle, (32, 32), (8, 8), sample=2)


def test_following():
    first = Leg("a", (3, 4, 4, -1), 4, 2, 3, restored=False)
    second = Leg("b", (5, -1), 2, 1, 5, restored=False)
    assert trace_legs([second, first]) == ([5, -1, -1, -1], 4)
    full = Leg("c", (0, 1, 1, 0), 4, 2, 0, restored=True)
    after = Leg("d", (0, -1, 1, 2), 4, 3, 0, restored=False)
    assert trace_legs([full, after]) == ([0, -1, 1, 2], 4)
    with pytest.raises(UnsupportedCallError, match="do not feed one another"):
        trace_legs([first, Leg("e", (0,) * 9, 9, 9, 0, restored=False)])
