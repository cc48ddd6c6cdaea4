"""fopru, svd-prune, e-adaprune: slow oracles, laws, and what is at the edges. Axes: B batch, N tokens, C width."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError
from tokenreduce.methods import Budget, Streams, make
from tokenreduce.ops import energy_rank, leading_energies, leverage, mean_logits
from tokenreduce.testing import site, stream, synthetic_backbone

from . import spectral_oracle as oracle

ONE = synthetic_backbone(("image",))
NAMES = ("fopru", "svd-prune", "e-adaprune")
COUNTS = {"fopru": {"keep": 5}, "svd-prune": {"keep": 5}, "e-adaprune": {"min_keep": 2, "max_keep": 9, "energy": 0.9}}


def tokens(batch=3, length=16, width=12, directions=4, seed=0):
    return oracle.low_rank(torch.Generator().manual_seed(seed), batch, length, width, directions)


def logits(x, seed=1):
    """What tokens (B, N, C) pay one another: a map (B, H, N, N), and the two means of it."""
    weight = torch.randn(2, 2, x.shape[-1], 6, generator=torch.Generator().manual_seed(seed)).to(x)
    query, key = ((x[:, None] @ side) for side in weight)
    return query, key


def signals(x):
    query, key = logits(x)
    return {"received_logits": mean_logits(key, query), "paid_logits": mean_logits(query, key)}


def reduction(name, x, given=None, real=None, prefix=0, **options):
    """What a method does with tokens; None where all stay."""
    active = make({"reducer": name, **options}).bind(ONE)
    given = signals(x) if given is None else given
    image = stream(x, real=real, prefix=prefix, **{key: given[key] for key in active.needs})
    return active.reduce_streams(Streams({"image": image}, "image"), site()).get("image")


def chosen(name, x, given=None, **options):
    """Indices that stay, of each image."""
    found = reduction(name, x, given, **options)
    if found is None:
        return [list(range(x.shape[1]))] * len(x)
    valid = torch.ones_like(found.keep, dtype=torch.bool) if found.valid is None else found.valid
    return [keep[there].tolist() for keep, there in zip(found.keep, valid, strict=True)]


# FoPru


def test_fopru_by_the_whole_map():
    x = tokens(4)
    query, key = logits(x)
    maps = (query @ key.transpose(-1, -2) / 6**0.5).numpy()
    for keep in (1, 6, 15):
        assert chosen("fopru", x, keep=keep) == [oracle.rank(one, keep) for one in maps]
    for keep, rows in ((3, 1), (4, 1), (11, 2), (12, 3)):
        assert chosen("fopru", x, keep=keep, strategy="row") == [oracle.rows(one, rows) for one in maps]


@pytest.mark.parametrize("strategy", ["rank", "row"])
def test_fopru_knows_no_scale_and_no_order_of_heads(strategy):
    x = tokens()
    query, key = logits(x)
    expected = chosen("fopru", x, keep=8, strategy=strategy)
    for q, k in ((3.7 * query, key), (query.flip(1), key.flip(1))):
        given = {"received_logits": mean_logits(k, q), "paid_logits": mean_logits(q, k)}
        assert chosen("fopru", x, given, keep=8, strategy=strategy) == expected


def test_fopru_goes_by_the_axis_that_varies():
    x = tokens(2)
    even, score = torch.ones(2, 16), torch.arange(16.0).roll(5).expand(2, -1)
    top = [[1, 2, 3, 4]] * 2
    assert chosen("fopru", x, {"received_logits": even, "paid_logits": score}, keep=4) == top
    assert chosen("fopru", x, {"received_logits": score, "paid_logits": even}, keep=4) == top
    given = {"received_attention": score, "paid_attention": even}
    assert chosen("fopru", x, given, keep=4, scores="softmax") == top
    given = {"received_logits": score, "paid_logits": score.flip(1)}  # as much: what they pay
    assert chosen("fopru", x, given, keep=4) == [[11, 12, 13, 14]] * 2


def test_rows_need_a_square_grid():
    with pytest.raises(UnsupportedCallError, match="use strategy='rank'"):
        reduction("fopru", tokens(length=15), keep=5, strategy="row")
    with pytest.raises(OptionError, match="'rank' or 'row'"):
        make({"reducer": "fopru", "strategy": "column"})
    with pytest.raises(OptionError, match="'logits' or 'softmax'"):
        make({"reducer": "fopru", "scores": "maps"})


class Largest(TorchDispatchMode):
    """Notes the largest square of the last two axes of any tensor that is made."""

    side = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor) and one.ndim >= 2:
                self.side = max(self.side, min(one.shape[-2:]))
        return out


@torch.no_grad()
def test_the_map_is_never_made(tiny_vit):
    """784 patches: by logits nothing is larger than the tokens; by softmax there are 128 rows at a time."""
    model, x = tiny_vit(img_size=112, patch_size=4, depth=2).eval(), torch.randn(1, 3, 112, 112)
    for options, most in (({}, 130), ({"scores": "softmax"}, 130)):
        with tokenreduce.attach(model, "fopru", keep=50, **options) as handle, Largest() as seen:
            model(x)
        assert handle.last.tokens["image"] == 51
        assert seen.side <= most


# leverage


@pytest.mark.parametrize("shape", [(16, 12), (9, 30), (1, 5), (7, 7)])
@pytest.mark.parametrize("centre", [False, True])
def test_leverage_by_a_decomposition(shape, centre):
    x = tokens(2, *shape, directions=3)
    expected = np.stack([oracle.leverage(one, 0.9, centre) for one in x.numpy()])
    if centre and shape[0] == 1:  # nothing is left of it
        expected = np.ones((2, 1))
    got = leverage(x, 0.9, centre=centre)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(got.sum(dim=1).numpy(), 1, atol=1e-9)


def test_leverage_knows_no_rotation_scale_sign_or_order():
    x = tokens().double()
    expected = leverage(x)
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    for changed in (x @ turn, 100 * x, -x, x * torch.tensor([1.0, -1.0] * 6)):
        torch.testing.assert_close(leverage(changed), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(leverage(x[:, order]), expected[:, order], atol=1e-9, rtol=0)


def test_a_token_at_right_angles_to_all_others_leads():
    x = torch.zeros(1, 10, 6)
    x[0, :, :3] = tokens(1, 10, 3)[0]
    x[0, 7] = torch.tensor([0, 0, 0, 50.0, 0, 0])
    assert int(leverage(x).argmax()) == 7
    assert chosen("svd-prune", x, keep=1) == [[7]]


def test_half_precision_is_cast_up():
    x = tokens().half()
    assert leverage(x).dtype == torch.float64
    torch.testing.assert_close(leverage(x), leverage(x.double()))


def test_the_fewest_tokens_that_hold_a_share_of_the_leverage():
    x = tokens()
    got = chosen("svd-prune", x, keep=Budget.cumulative(0.6, cap=16))
    for one, keep in zip(x.numpy(), got, strict=True):
        score = np.sort(oracle.leverage(one))[::-1]
        assert len(keep) == next(k for k in range(1, 17) if score[:k].sum() >= 0.6 - 1e-9)
        assert keep == sorted(np.argsort(-oracle.leverage(one), kind="stable")[: len(keep)].tolist())


# the spectrum as a budget


@pytest.mark.parametrize("options", [{}, {"centre": True}, {"power": 1}, {"selector": "random"}])
def test_numbers_by_a_decomposition(options):
    x = tokens(5, 20, 14, 6)
    own = {key: value for key, value in options.items() if key != "selector"}
    for share in (0.5, 0.9, 0.99):
        got = [len(keep) for keep in chosen("e-adaprune", x, energy=share, min_keep=1, max_keep=20, **options)]
        assert got == [oracle.energy_rank(one, share, **own) for one in x.numpy()]


def test_more_energy_more_tokens_up_to_the_rank():
    x = tokens(4, 24, 10)
    before = torch.zeros(4)
    for share in (0.1, 0.5, 0.8, 0.9, 0.99, 0.9999, 1.0):
        ranks = energy_rank(x, share)
        assert (ranks >= before).all() and (ranks <= 10).all()
        before = ranks
    line = torch.randn(2, 16, 1) * torch.randn(2, 1, 12)
    assert energy_rank(line, 0.999999).tolist() == [1, 1]


def test_bounds():
    x = tokens(3, 24, 20, 8)
    assert {len(keep) for keep in chosen("e-adaprune", x, energy=0.999, min_keep=1, max_keep=4)} == {4}
    assert {len(keep) for keep in chosen("e-adaprune", x, energy=0.01, min_keep=6, max_keep=9)} == {6}
    assert chosen("e-adaprune", x, energy=0.01, min_keep=24, max_keep=30) == [list(range(24))] * 3


def test_a_randomised_spectrum_is_seeded_and_nearly_exact():
    x = tokens(4, 64, 48, 10)
    for share in (0.8, 0.95, 0.99):
        bounds = {"energy": share, "min_keep": 1, "max_keep": 20}
        exact = chosen("e-adaprune", x, **bounds)
        for seed in (0, 1):
            assert chosen("e-adaprune", x, **bounds, spectrum="randomised", seed=seed) == exact
    one, total = leading_energies(x, 20, seed=3)
    assert torch.equal(one, leading_energies(x, 20, seed=3)[0])
    assert not torch.equal(one, leading_energies(x, 20, seed=4)[0])
    torch.testing.assert_close(total, x.double().square().sum(dim=(1, 2)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"selector": "tome"}, "has no option keep"),
        ({"selector": {"reducer": "fopru", "keep": 3}}, "without keep"),
        ({"selector": 3}, "name of a method"),
        ({"energy": 0.0}, "energy"),
        ({"min_keep": 9, "max_keep": 8}, "below min_keep=9"),
        ({"max_keep": 0}, "positive integer"),
        ({"power": 3}, "power must be 1"),
        ({"power": 1, "spectrum": "randomised"}, "use power=2"),
        ({"spectrum": "lanczos"}, "'exact' or 'randomised'"),
        ({"centre": 1}, "True or False"),
        ({"features": "hidden"}, "features must be one of"),
    ],
)
def test_what_cannot_be_a_budget(options, says):
    with pytest.raises(OptionError, match=says):
        make({"reducer": "e-adaprune", **options})


def test_features_of_a_projector_need_one(tiny_vit):
    for name in ("svd-prune", "e-adaprune"):
        with pytest.raises(UnfitReducerError, match="leave features at 'encoder'"):
            tokenreduce.attach(tiny_vit(img_size=32), name, features="projected")


# all three


@pytest.mark.parametrize("name", NAMES)
def test_each_image_alone(name):
    """In any batch, in any order, and whatever fills up shorter images."""
    x, options = tokens(5, seed=4) * torch.tensor([0.1, 1, 2, 5, 9]).view(-1, 1, 1), COUNTS[name]
    together = chosen(name, x, **options)
    assert [chosen(name, one[None], **options)[0] for one in x] == together
    assert chosen(name, x.flip(0), **options) == together[::-1]
    short = tokens(1, 11, seed=6)
    real = torch.ones(2, 16, dtype=torch.bool)
    real[1, 11:] = False
    mixed = torch.cat([x[:1], torch.cat([short, torch.full((1, 5, 12), 99.0)], dim=1)])
    given = signals(mixed)
    given = {key: torch.cat([value[:1], _filled(signals(short)[key])]) for key, value in given.items()}
    found = reduction(name, mixed, given, real=real, **options)
    valid = torch.ones_like(found.keep, dtype=torch.bool) if found.valid is None else found.valid
    valid = valid & real.gather(1, found.keep)
    kept = [keep[there].tolist() for keep, there in zip(found.keep, valid, strict=True)]
    assert kept == [together[0], chosen(name, short, **options)[0]]


def _filled(side):
    return torch.cat([side, torch.full((1, 5), 7.0)], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_ties_go_to_the_lower_index(name):
    """All tokens equal, or all zero; and each token twice."""
    count = 2 if name == "e-adaprune" else 5
    for x in (torch.zeros(2, 16, 12), torch.ones(2, 16, 12)):
        assert chosen(name, x, **COUNTS[name]) == [list(range(count))] * 2
    half = tokens(2, 8)
    given = {key: side.repeat_interleave(2, dim=1) for key, side in signals(half).items()}
    for keep in chosen(name, half.repeat_interleave(2, dim=1), given, **COUNTS[name]):
        assert all(i - 1 in keep for i in keep if i % 2)


@pytest.mark.parametrize("name", NAMES)
def test_one_token_and_more_than_there_are(name):
    one = tokens(2, 1)
    for options in (COUNTS[name], {} if name != "e-adaprune" else {"min_keep": 1, "max_keep": 1}):
        assert chosen(name, one, **options) == [[0], [0]]
    x, many = tokens(2), {"min_keep": 40, "max_keep": 90} if name == "e-adaprune" else {"keep": 40}
    assert chosen(name, x, **many) == [list(range(16))] * 2


@pytest.mark.parametrize("name", NAMES)
def test_protected_tokens_stay_and_are_not_looked_at(name):
    x, front = tokens(2), torch.full((2, 2, 12), 30.0)
    given = {key: torch.cat([torch.full((2, 2), 99.0), side], dim=1) for key, side in signals(x).items()}
    found = reduction(name, torch.cat([front, x], dim=1), given, prefix=2, **COUNTS[name])
    expected = [[0, 1, *(i + 2 for i in keep)] for keep in chosen(name, x, **COUNTS[name])]
    valid = torch.ones_like(found.keep, dtype=torch.bool) if found.valid is None else found.valid
    assert [keep[there].tolist() for keep, there in zip(found.keep, valid, strict=True)] == expected


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_options_survive_json_and_scale(name, tiny_vit):
    model, x = tiny_vit(img_size=32, depth=4).eval(), torch.randn(2, 3, 32, 32)
    dense = model(x)
    with tokenreduce.attach(model, name, **COUNTS[name]) as handle:
        reduced, options = model(x), handle.stacks["vision"].reducer.reducer.options()
        assert handle.last.tokens["image"] < 17
        handle.scale(0)
        model(x)
        assert handle.last.tokens["image"] == 17
    with tokenreduce.attach(model, name, **options):
        assert torch.equal(model(x), reduced)
    assert torch.equal(model(x), dense)
