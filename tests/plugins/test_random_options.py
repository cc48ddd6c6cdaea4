"""Random drop: repeatable in evaluation, fresh in training, the same rounding as the methods it is compared with."""

import pytest
import torch

import tokenreduce
from tokenreduce.methods import Streams
from tokenreduce.registry import default_registry


def kept(handle):
    """Input tokens that are left, (B, K)."""
    trace = handle.last.trace
    return torch.stack([(row >= 0).nonzero().flatten() for row in trace.source])


@pytest.fixture
def run(tiny_vit, images):
    """Tokens left of one 36-patch image repeated, by the options of attach."""

    def of(batch=3, passes=1, training=False, **options):
        model = tiny_vit(img_size=48).train(training)
        x = images(1, 48, 48).expand(batch, -1, -1, -1)
        with tokenreduce.attach(model, "random", trace=True, **options) as handle:
            rows = []
            for _ in range(passes):
                with torch.no_grad():
                    model(x)
                rows.append(kept(handle))
        return rows if passes > 1 else rows[0]

    return of


def test_evaluation_repeats_itself(run):
    once, twice = run(passes=2)
    assert torch.equal(once, twice)
    torch.manual_seed(7)
    assert torch.equal(run(), once)
    assert torch.equal(run(seed=0), once)


def test_evaluation_reads_no_generator(run):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    model_free = run()
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    run(keep=1.0)  # building the model moves the generator, the draws do not
    assert torch.equal(torch.random.get_rng_state(), after)
    assert len(model_free) == 3


def test_seeds_differ(run):
    assert not torch.equal(run(seed=1), run(seed=2))
    assert torch.equal(run(seed=1), run(seed=1))


def test_the_draw_depends_on_the_position_in_the_batch_not_on_content_or_batch_size(run):
    rows = run(batch=3)
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[1], rows[2])
    assert torch.equal(run(batch=1)[0], rows[0])
    assert torch.equal(run(batch=2), rows[:2])


def test_layers_draw_differently(run):
    one, two = run(remove=12, layers=[0]), run(remove=12, layers=[1])
    assert not torch.equal(one, two)


def test_training_draws_new_numbers(run):
    once, twice = run(passes=2, training=True)
    assert not torch.equal(once, twice)
    assert once.shape == twice.shape


def test_training_follows_torchs_generator(tiny_vit, images):
    model, x = tiny_vit(img_size=48).train(), images(2, 48, 48)
    with tokenreduce.attach(model, "random"):
        torch.manual_seed(5)
        first = model(x)
        second = model(x)
        torch.manual_seed(5)
        assert torch.equal(model(x), first)
    assert not torch.equal(first, second)


@torch.no_grad()
def test_the_class_token_stays_and_order_is_kept(tiny_vit, images):
    model = tiny_vit(img_size=48, reg_tokens=2)
    with tokenreduce.attach(model, "random", keep=0.3, layers=[0, 1, 2], trace=True) as handle:
        model(images(4, 48, 48))
        source = handle.last.trace.source
    for row in source:
        assert row[:3].tolist() == [0, 1, 2]
        left = row[row >= 0].tolist()
        assert left == list(range(len(left)))


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"keep": 0.7}, [37, 27, 20, 15]),  # ceil of 25.2, 18.2, 13.3, and the class token
        ({"keep": [1.0, 0.5]}, [37, 37, 19, 19, 19]),
        ({"remove": 5}, [37, 32, 27, 22]),
        ({"remove": 0.125}, [37, 33, 29, 25]),  # round of 4.5, 4 and 3.5: half to even
        ({"remove": [3, 0.5]}, [37, 34, 18, 18, 18]),  # 16.5 becomes 16
        ({"remove": 1000}, [37, 2, 2, 2]),
        ({"keep": 0.001}, [37, 2, 2, 2]),
    ],
)
@torch.no_grad()
def test_rounding(tiny_vit, images, flow, options, counts):
    model = tiny_vit(img_size=48)
    with tokenreduce.attach(model, "random", **options) as handle:
        model(images(1, 48, 48))
        assert flow(handle) == counts


def test_every_token_is_as_likely_to_stay(stream, site):
    kind = default_registry().load("reducer", "random")
    stays = torch.zeros(16)
    x = torch.zeros(20, 17, 1)
    for seed in range(100):
        reduction = kind(remove=8, seed=seed).reduce_streams(Streams({"image": stream(x, prefix=1)}), site())["image"]
        stays += torch.bincount(reduction.keep[:, 1:].flatten() - 1, minlength=16)
    assert stays.sum() == 16000
    expected = 1000.0
    assert float(((stays - expected) ** 2 / (expected / 2)).sum()) < 40  # 15 degrees of freedom: 1 in 1000


@torch.no_grad()
def test_padding_goes_first_on_a_padded_vilt(tiny_vilt, vilt_inputs):
    model = tiny_vilt()
    inputs = vilt_inputs(3, 7, lengths=[7, 4, 2], sizes=[(32, 32), (32, 16), (16, 24)])
    with tokenreduce.attach(model, "random", remove=6, layers=[0], trace=True) as handle:
        model(**inputs)
        trace = handle.last.trace
    image = trace.stream("image")  # the class token, real patches, padding
    real = [17, 9, 7]
    for row, count in zip(image, real, strict=True):
        gone = (row < 0).nonzero().flatten().tolist()
        assert len(gone) == 6
        assert sum(place < count for place in gone) == max(6 - (17 - count), 0)


@torch.no_grad()
def test_trace_sizes_count_no_padding(tiny_vilt, vilt_inputs):
    model = tiny_vilt()
    inputs = vilt_inputs(3, 7, lengths=[7, 4, 2], sizes=[(32, 32), (32, 16), (16, 24)])
    for reducer, options in (("random", {"remove": 2}), ("tome", {"r": 2})):
        with tokenreduce.attach(model, reducer, layers=[0], trace=True, **options) as handle:
            model(**inputs)
            trace = handle.last.trace
        dropped = (trace.stream("image")[0] < 0).sum()  # of the first sample, which is all real
        assert trace.size.sum(dim=1).tolist() == [7 + 17 - int(dropped), 4 + 9, 2 + 7], reducer
