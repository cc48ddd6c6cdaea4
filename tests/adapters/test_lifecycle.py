"""An attached model in use: pickled, copied, shared by threads, hooked, interrupted, and its random numbers."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch

import tokenreduce

KINDS = ["vit", "vilt"]


@pytest.fixture(params=[("tome", {"r": 3}), ("pumer", {}), ("dynamicvit", {"keep": 0.6})], ids=lambda case: case[0])
def reducer(request):
    """One of one stream, one of two, one with weights."""
    return request.param


@pytest.fixture(params=KINDS)
def build(request, tiny_vit, tiny_vilt):
    """Build a model with ``seed``."""
    return tiny_vit if request.param == "vit" else tiny_vilt


@pytest.fixture
def feed(build, tiny_vit, images, vilt_inputs):
    """Run a model on inputs made from a seed; logits."""

    def run(model, seed=1, batch=2, **size):
        if build is tiny_vit:
            return model(images(batch, seed=seed, **size))
        return model(**vilt_inputs(batch, seed=seed, **size)).logits

    return run


def blocks(model):
    return list(model.blocks) if hasattr(model, "blocks") else list(model.vilt.encoder.layer)


def stack(model):
    return model.blocks if hasattr(model, "blocks") else model.vilt.encoder


def tokens(output):
    return output[0] if isinstance(output, tuple) else output


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_torch(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_torch])
@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("trace", [False, True])
def test_a_copy_of_an_attached_model_is_independent(
    duplicate, ran_before, trace, reducer, build, feed, forwards, assert_close
):
    model, (name, options) = build(), reducer
    torch.manual_seed(0)
    plain = feed(model).detach()
    handle = tokenreduce.attach(model, name, trace=trace, **options)
    if ran_before:
        feed(model, seed=3, batch=3).sum().backward()  # leaves a record, and gradients
        model.zero_grad()
    twin = duplicate(model)
    own = tokenreduce.attachment(twin)
    assert own is not None
    assert own is not handle
    assert own.model is twin
    assert own.config == handle.config
    assert tokenreduce.attachment(model) is handle
    with torch.no_grad():
        reduced = feed(model)
        assert torch.equal(feed(twin), reduced)
        for parameter in model.parameters():
            parameter.add_(0.1)  # the copy has weights of its own
        assert torch.equal(feed(twin), reduced)
        for parameter in model.parameters():
            parameter.sub_(0.1)
        before = handle.last.sites
        feed(twin, batch=1)
        assert handle.last.sites == before
        own.detach()
        assert forwards(twin) == []
        assert forwards(model) != []
        torch.manual_seed(0)
        assert_close(feed(twin), plain, 1e-6)
        assert_close(feed(model), reduced, 1e-4)
    handle.detach()
    again = tokenreduce.attach(twin, name, **options)
    with torch.no_grad():
        assert torch.equal(feed(twin), reduced)
    again.detach()


def test_detaching_the_original_leaves_the_copy_attached(build, feed, forwards):
    model = build()
    handle = tokenreduce.attach(model, "pumer")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = feed(model)
        handle.detach()
        assert forwards(model) == []
        assert torch.equal(feed(twin), expected)
        tokenreduce.attachment(twin).detach()
    assert forwards(twin) == []


def test_a_copy_of_a_part(tiny_vilt, vilt_inputs, forwards):
    model = tiny_vilt()
    with tokenreduce.attach(model, "pumer"):
        part = copy.deepcopy(model.vilt)
    tokenreduce.attachment(part).detach()
    assert forwards(part) == []
    with torch.no_grad():
        assert part(**vilt_inputs()).last_hidden_state.shape == (3, 24, 32)


def test_two_models_in_one_process(build, feed):
    one, other = build(seed=0), build(seed=1)
    with torch.no_grad():
        with tokenreduce.attach(one, "tome", r=2):
            first = feed(one)
        with tokenreduce.attach(other, "evit"):
            second = feed(other)
        with tokenreduce.attach(one, "tome", r=2) as a, tokenreduce.attach(other, "evit") as b:
            for _ in range(2):
                assert torch.equal(feed(one), first)
                assert torch.equal(feed(other), second)
            assert a.last.sites != b.last.sites
            b.detach()
            assert torch.equal(feed(one), first)


def test_two_models_that_share_weights_but_not_blocks(tiny_vit, images):
    one = tiny_vit()
    other = copy.deepcopy(one)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        b.data = a.data
    with torch.no_grad(), tokenreduce.attach(one, "tome", r=3):
        plain = other(images())
        assert not torch.equal(one(images()), plain)


def test_threads_on_one_model(build, feed, reducer):
    model, (name, options) = build(), reducer
    jobs = [(1, 1), (2, 2), (3, 3), (4, 2)]  # seed and batch
    with tokenreduce.attach(model, name, trace=True, **options), torch.no_grad():
        expected = [feed(model, seed, batch) for seed, batch in jobs]
    wrong, start = [], threading.Barrier(len(jobs))

    def work(index):
        start.wait()
        with torch.no_grad():
            for _ in range(15):
                try:
                    if not torch.equal(feed(model, *jobs[index]), expected[index]):
                        wrong.append(f"thread {index} got another answer")
                except Exception as error:  # reported by the assertion below
                    wrong.append(f"thread {index}: {error!r}")

    with tokenreduce.attach(model, name, trace=True, **options) as handle:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert handle.last.sites
    assert wrong == []


def test_random_drop_is_fresh_in_training_and_follows_torch_seed(build, feed):
    model = build().train()
    with torch.no_grad(), tokenreduce.attach(model, "random", keep=0.5):
        torch.manual_seed(1)
        one, other = feed(model), feed(model)
        torch.manual_seed(1)
        assert torch.equal(feed(model), one)
    assert not torch.equal(one, other)


def test_options_reach_the_draw(build, feed):
    model = build()
    with torch.no_grad():
        with tokenreduce.attach(model, "random", keep=0.5, seed=1):
            one = feed(model)
        with tokenreduce.attach(model, "random", keep=0.5, seed=2):
            assert not torch.equal(feed(model), one)


def test_an_error_inside_a_with_block_detaches(build, forwards):
    model = build()
    with pytest.raises(ZeroDivisionError), tokenreduce.attach(model, "tome", r=1):
        raise ZeroDivisionError
    assert forwards(model) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_fire_once_and_see_the_short_sequence(when, build, feed, reducer):
    model, (name, options) = build(), reducer
    seen = []

    def hook_all():
        for i, block in enumerate(blocks(model)):
            block.register_forward_pre_hook(lambda m, args, i=i: seen.append(("in", i, args[0].shape[1])))
            block.register_forward_hook(lambda m, args, output, i=i: seen.append(("out", i, tokens(output).shape[1])))
        stack(model).register_forward_hook(lambda m, args, output: seen.append(("stack", -1, 0)))
        model.register_forward_hook(lambda m, args, output: seen.append(("model", -1, 0)))

    if when == "before":
        hook_all()
    with tokenreduce.attach(model, name, **options) as handle, torch.no_grad():
        if when == "after":
            hook_all()
        assert seen == []  # the proof fired none
        feed(model)
        rows = handle.last.sites
        once = list(seen)
        feed(model)
        assert seen == once * 2
    order = [(kind, i) for kind, i, _ in once]
    assert order == [(k, i) for i in range(4) for k in ("in", "out")] + [("stack", -1), ("model", -1)]
    lengths = {(kind, i): n for kind, i, n in once}
    for i in range(4):
        removed = sum(row.tokens_in - row.tokens_out for row in rows if row.layer == i)
        assert lengths["out", i] == lengths["in", i] - removed
        assert i == 0 or lengths["in", i] == lengths["out", i - 1]
    assert lengths["out", 3] < lengths["in", 0]


def test_hooks_that_change_what_a_block_gets_and_gives(build, feed, assert_close):
    model = build()
    for block in blocks(model)[1:3]:
        block.register_forward_pre_hook(lambda m, args: (args[0] * 1.5, *args[1:]))
        block.register_forward_hook(lambda m, args, out: (out[0] - 1, *out[1:]) if isinstance(out, tuple) else out - 1)
    with torch.no_grad():
        expected = feed(model)
        with tokenreduce.attach(model, "none"):
            assert_close(feed(model), expected)


def test_a_hook_that_gives_a_block_a_single_new_input(tiny_vit, images, assert_close):
    """torch wraps a single value: on a timm block, which takes nothing else, this is the usual way to write it."""
    model = tiny_vit()
    model.blocks[1].register_forward_pre_hook(lambda module, args: args[0] * 1.5)
    with torch.no_grad():
        expected = model(images())
        with tokenreduce.attach(model, "none"):
            assert_close(model(images()), expected)


def test_hooks_that_cannot_be_copied(build, feed):
    """A profiler's hook is a bound method of an object with a lock in it."""

    class Profiler:
        def __init__(self):
            self.lock, self.calls = threading.Lock(), 0

        def __call__(self, module, args, output):
            with self.lock:
                self.calls += 1

    model, profiler = build(), Profiler()
    for block in blocks(model):
        block.register_forward_hook(profiler)
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=1):
        assert profiler.calls == 0
        feed(model)
    assert profiler.calls == 4


def test_backward_hooks(build, feed):
    model, seen = build().train(), []
    for i, block in enumerate(blocks(model)):
        block.register_full_backward_hook(lambda m, gin, gout, i=i: seen.append((i, gout[0].shape[1])))
    with tokenreduce.attach(model, "tome", r=2):
        feed(model).sum().backward()
    assert [i for i, _ in seen] == [3, 2, 1, 0]
    assert seen[0][1] < seen[-1][1]


def test_evaluation_draws_no_more_than_the_plain_model(build, feed, reducer):
    model, (name, options) = build(), reducer
    torch.manual_seed(6)
    before = torch.get_rng_state()
    with torch.no_grad():
        feed(model)
        after = torch.get_rng_state()
        torch.manual_seed(6)
        with tokenreduce.attach(model, name, **options):
            feed(model)
    assert any(torch.equal(torch.get_rng_state(), state) for state in (before, after))


def test_evaluation_of_padded_images_draws_what_the_plain_model_draws(crossing, tiny_vilt, vilt_inputs):
    model, inputs, (name, options) = tiny_vilt(), vilt_inputs(sizes=[(32, 32), (16, 24), (32, 8)]), crossing
    with torch.no_grad():
        torch.manual_seed(6)
        model(**inputs)
        after = torch.get_rng_state()
        torch.manual_seed(6)
        with tokenreduce.attach(model, name, **options):
            model(**inputs)
    assert torch.equal(torch.get_rng_state(), after)


def test_moved_and_converted_while_attached(build, feed, assert_close):
    model = build()
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=2):
        expected = feed(model)
        model.double()
        model.float()
        assert torch.equal(feed(model), expected)


def test_attached_in_inference_mode_and_under_autocast(build, feed, assert_close):
    model = build()
    with torch.no_grad(), tokenreduce.attach(model, "tome", r=2):
        expected = feed(model)
    with torch.inference_mode():
        handle = tokenreduce.attach(model, "tome", r=2)
        assert torch.equal(feed(model), expected)
        handle.detach()
    with torch.autocast("cpu", torch.bfloat16):
        handle = tokenreduce.attach(model, "tome", r=2)
    with torch.no_grad():
        assert torch.equal(feed(model), expected)
    handle.detach()
    feed(model).sum().backward()


def test_attached_under_another_default_type(build, feed):
    model = build()
    with torch.no_grad():
        with tokenreduce.attach(model, "pumer"):
            expected = feed(model)
        torch.set_default_dtype(torch.float64)
        try:
            handle = tokenreduce.attach(model, "pumer")
        finally:
            torch.set_default_dtype(torch.float32)
        with handle:
            assert torch.equal(feed(model), expected)


def test_frozen_parts_stay_frozen(build, feed):
    model = build().train()
    for parameter in blocks(model)[0].parameters():
        parameter.requires_grad_(False)
    with tokenreduce.attach(model, "tome", r=2):
        feed(model).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in blocks(model)[0].parameters())
