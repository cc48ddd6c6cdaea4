"""What holds for a reducer on streams made by hand, without a model.

Axes: B batch, N tokens before, K tokens after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from ..core.gate import Gate
from ..core.reduction import Reduction
from ..core.signals import SIGNALS, WHOLE
from ..core.streams import Stream, Streams
from ..methods.reducer import BaseReducer
from ..methods.site_reducer import SiteReducer
from .comparison import assert_close
from .models import backward
from .subject import ReducerCase
from .synthetic import DEPTH, Draw, draws, site, synthetic_backbone

Setting = Mapping[str, Any]
PADDING = "with other values in the padding (leave padding out of means and maxima: tokens.real)"
Values = dict[str, dict[str, Tensor]]
laws = settings(max_examples=40, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))


class StreamLaws(ReducerCase):
    """Laws of a reducer by itself; :class:`tokenreduce.testing.ReducerConformance` has them all."""

    def test_every_token_goes_to_one_place(self, setting: Setting) -> None:
        """Indices lie in range, no token is kept or folded twice, and what is told to the host is true."""
        reducer = self.made(setting)

        def law(draw: Draw) -> None:
            for name, stream, reduction in reductions(reducer, draw):
                check_reduction(name, stream, reduction)

        for_all(law)

    def test_protected_tokens_stay_in_front(self, setting: Setting) -> None:
        """Bit for bit, in order, and nothing is folded into them."""
        reducer = self.made(setting)

        def law(draw: Draw) -> None:
            for name, stream, reduction in reductions(reducer, draw):
                prefix, x = stream.tokens.prefix, stream.tokens.x
                front = torch.arange(prefix).expand(len(x), -1)
                assert torch.equal(reduction.keep[:, :prefix], front), (
                    f"stream {name!r}: the first {prefix} tokens are protected and must be the first ones kept"
                )
                assert torch.equal(reduction.apply(x)[:, :prefix], x[:, :prefix]), (
                    f"stream {name!r}: a protected token was changed; nothing may be folded into one"
                )
                if stream.tokens.count > prefix:
                    assert int(reduction.counts().min()) > prefix, (
                        f"stream {name!r}: one token that is not protected has to stay in each sample"
                    )

        for_all(law)

    def test_the_number_of_tokens_follows_from_shapes(self, setting: Setting) -> None:
        """The same whatever the tokens hold and whatever is padding; of a plain method, what its budget says.

        A method by which samples keep different numbers (``ragged``) keeps at most the cap, known on the host.
        """
        reducer = self.made(setting)

        def capped(draw: Draw) -> None:
            for name, stream, reduction in reductions(reducer, draw):
                free, prefix = stream.tokens.removable, stream.tokens.prefix
                cap = max(budget.cap(self.site_at(reducer), free) for budget in reducer.reducer.budgets().values())
                extra = reduction.fresh
                most = int(reduction.counts().max())
                assert most <= reduction.count <= prefix + cap + extra, (
                    f"stream {name!r}: {most} tokens are left, the cap is {cap} besides the {prefix} protected ones"
                )

        if reducer.ragged and reducer.reducer.budgets():
            for_all(capped)
        if reducer.ragged:
            return

        def law(draw: Draw) -> None:
            counts = {name: reduction.count for name, _, reduction in reductions(reducer, draw)}
            for other in (draw.values(draw.seed + 7), {n: zeros(v) for n, v in draw.values().items()}):
                again = {name: reduction.count for name, _, reduction in reductions(reducer, draw, other)}
                assert again == counts, f"other values, other numbers of tokens: {counts} and {again}"
            bare = Draw(draw.length, draw.prefix, seed=draw.seed)
            again = {name: reduction.count for name, _, reduction in reductions(reducer, bare)}
            assert again == counts, f"with padding {counts} tokens are left, without {again}"
            if plain(reducer):
                image = draw.streams(draw.values(), frozenset(reducer.needs))["image"].tokens
                rule = reducer.reducer
                expected = draw.length - max(rule.count(rule.budget, self.site_at(reducer), image), 0)
                got = counts.get("image", draw.length)
                assert got == expected, (
                    f"the budget says that {expected} of {draw.length} tokens stay, reduce left {got}"
                )

        for_all(law)

    def test_something_goes(self, setting: Setting) -> None:
        """A reducer that removes nothing from two dozen tokens would be a silent no-op."""
        reducer, draw = self.made(setting), Draw(25)
        gone = 0
        for layer in range(DEPTH) if not self.baseline else ():
            where = self.site_at(reducer, layer)
            for _, stream, reduction in reductions(reducer, draw, where=where):
                gone += stream.tokens.count - reduction.count
        assert gone > 0 or self.baseline, "nothing went in any layer; if that is meant, its spec's role is 'baseline'"

    def test_nothing_goes_at_a_budget_of_zero(self, setting: Setting) -> None:
        reducer = self.made(self.nothing(setting))

        def law(draw: Draw) -> None:
            for name, stream, reduction in reductions(reducer, draw):
                whole = torch.arange(stream.tokens.count).expand(len(stream.tokens.x), -1)
                assert reduction.source is None and torch.equal(reduction.keep, whole), (
                    f"stream {name!r}: {self.nothing(setting)} should leave every token as it is"
                )

        for_all(law)

    def test_padding_goes_before_any_real_token(self, setting: Setting) -> None:
        reducer = self.made(setting)

        def law(draw: Draw) -> None:
            for name, stream, reduction in reductions(reducer, draw):
                real = stream.tokens.real
                if real is None:
                    continue
                if reduction.valid is not None:
                    check_padding_first(name, stream, reduction)
                    continue
                gone = reduction.length - (reduction.count - reduction.fresh)
                for row, kept in zip(real, reduction.keep, strict=True):
                    lost = row.clone()
                    lost[kept[kept >= 0]] = False
                    allowed = max(gone - int((~row).sum()), 0)
                    assert int(lost.sum()) <= allowed, (
                        f"stream {name!r}: {int(lost.sum())} real tokens went while padding stayed; score padding "
                        "below all else (tokens.keep_top does)"
                    )

        for_all(law)

    def test_what_stands_in_the_padding_reaches_no_real_token(self, setting: Setting) -> None:
        reducer = self.made(setting)

        def law(draw: Draw) -> None:
            given_, other = draw.values(), draw.values(draw.seed + 5)
            for stream_name, real in draw.real().items():
                for signal, value in given_[stream_name].items():
                    if real is not None and signal not in WHOLE:
                        mask = real.view(*real.shape, *[1] * (value.ndim - 2))
                        other[stream_name][signal] = torch.where(mask, value, 9 * other[stream_name][signal] + 3)
                    else:
                        other[stream_name][signal] = value
            pairs = zip(reductions(reducer, draw, given_), reductions(reducer, draw, other), strict=True)
            for (name, stream, one), (_, poisoned, two) in pairs:
                real = stream.tokens.real
                alive = one.add_up(torch.ones(one.keep.shape[0], one.length) if real is None else real.float()) > 0
                got, wanted = two.apply(poisoned.tokens.x)[alive], one.apply(stream.tokens.x)[alive]
                assert_close(got, wanted, what=f"real tokens of stream {name!r} {PADDING}")

        for_all(law)

    def test_a_sample_does_not_depend_on_its_batch(self, setting: Setting) -> None:
        """Permuted or alone, a sample is reduced alike; what draws at random goes by the place in the batch."""
        reducer = self.made(setting)
        if reducer.stochastic:
            return

        def law(draw: Draw) -> None:
            whole = {name: tokens_left(s, reduction) for name, s, reduction in reductions(reducer, draw)}
            for rows in ([2, 0, 1], [0], [1], [2]):
                for name, stream, reduction in reductions(reducer, replace(draw, rows=rows)):
                    for row, got in zip(rows, tokens_left(stream, reduction), strict=True):
                        expected = whole[name][row]
                        assert len(got) == len(expected), f"stream {name!r} of {rows}: other numbers of tokens"
                        assert_close(got, expected, 1e-5, what=f"stream {name!r} of samples {rows} by themselves")

        for_all(law)

    def test_the_same_again(self, setting: Setting) -> None:
        """In evaluation nothing is drawn from torch's generator, and the same tokens are reduced alike."""
        reducer, draw = self.made(setting), Draw(17, sized=True, padding=0.2)
        before = torch.get_rng_state()
        one = [reduction for _, _, reduction in reductions(reducer, draw)]
        assert torch.equal(torch.get_rng_state(), before), "torch's generator was drawn from; use a private one"
        torch.manual_seed(1)
        for first, (_, _, second) in zip(one, reductions(reducer, draw), strict=True):
            assert torch.equal(first.keep, second.keep), "the same tokens were reduced in another way"

    def test_what_is_given_is_left_as_it_is(self, setting: Setting) -> None:
        reducer, draw = self.made(setting), Draw(17, sized=True, padding=0.2)
        given_ = draw.values()
        before = {stream: {k: v.clone() for k, v in own.items()} for stream, own in given_.items()}
        reductions(reducer, draw, given_)
        for stream, own in given_.items():
            for name, value in own.items():
                assert torch.equal(value, before[stream][name]), f"{name} of stream {stream!r} was written to"

    def test_gradients_reach_what_stays(self, setting: Setting) -> None:
        """Every token that is kept or folded gets a gradient, in numbers; one that is dropped gets none."""
        reducer, draw = self.made(setting), Draw(17)
        given_ = draw.values()
        for own in given_.values():
            own["x"].requires_grad_()
        found = reductions(reducer, draw, given_)
        if not found:
            return
        backward(torch.stack([reduction.apply(stream.tokens.x).sum() for _, stream, reduction in found]).sum())
        for name, _, reduction in found:
            if "+" in name:
                continue
            gradient = given_[name]["x"].grad
            assert gradient is not None and gradient.isfinite().all(), f"stream {name!r}: no gradient, or not finite"
            stays = reduction.assignment() >= 0
            assert gradient[stays].ne(0).any(dim=-1).all(), f"stream {name!r}: a token that stays gets no gradient"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_with_nothing_to_tell_tokens_apart(self, setting: Setting, dtype: torch.dtype) -> None:
        """Finite in half precision, also where keys and attention are all zero."""
        reducer = self.made(setting)
        if isinstance(reducer, nn.Module):
            reducer.to(dtype)
        for padding in (0.0, 0.4):
            draw = Draw(17, padding=padding, dtype=dtype)
            flat = {n: {**zeros(own), "x": own["x"]} for n, own in draw.values().items()}
            for given_ in (draw.values(), flat):
                for name, stream, reduction in reductions(reducer, draw, given_):
                    got = reduction.apply(stream.tokens.x)
                    assert got.dtype == dtype, f"stream {name!r}: {dtype} became {got.dtype}"
                    assert got.isfinite().all(), f"stream {name!r}: not finite in {dtype}"

    def test_needs_are_what_is_read(self, setting: Setting) -> None:
        """Each signal in ``needs`` is read in some layer, evaluating or training; reading another one is an error."""
        read: set[str] = set()
        needs: frozenset[str] = frozenset()
        for training in (False, True):
            reducer = self.made(setting, training=training)
            needs = frozenset(reducer.needs)
            for layer in range(DEPTH):
                where = self.site_at(reducer, layer)
                streams = Draw(25).streams(Draw(25).values(), needs, training=training, read=read.add)
                reducer.reduce_streams(streams, where)
        assert needs <= set(SIGNALS), f"needs has {sorted(needs - set(SIGNALS))}; signals are {', '.join(SIGNALS)}"
        assert needs <= read, f"declared and never read, so paid for in vain: {', '.join(sorted(needs - read))}"

    def test_gates_in_training(self, setting: Setting) -> None:
        """What a learnable reducer gives in training: gates from 0 to 1 with a gradient, losses in numbers."""
        reducer = self.made(setting, training=True)
        draw = Draw(17)
        streams = draw.streams(draw.values(), frozenset(reducer.needs), training=True)
        for name, chosen in reducer.reduce_streams(streams, self.site_at(reducer)).items():
            if isinstance(chosen, Gate):
                values = chosen.values
                assert values.shape == streams[name].tokens.x.shape[:2], f"the gate of {name!r} is {values.shape}"
                assert bool(((values >= 0) & (values <= 1)).all()), f"the gate of {name!r} leaves [0, 1]"
                assert values.requires_grad, f"the gate of {name!r} has no gradient, so nothing is learned"
        for name, loss in (streams._losses or {}).items():
            assert loss.isfinite(), f"the loss {name!r} is {loss}"

    def site_at(self, reducer: SiteReducer, layer: int | None = None) -> Any:
        """The site of the first layer where the reducer acts, or of another one."""
        return where_of(reducer, layer)


def for_all(law: Callable[[Draw], None]) -> None:
    """Check a law on many streams; hypothesis shows the smallest that breaks it."""
    laws(given(draws())(law))()


def where_of(reducer: SiteReducer, layer: int | None = None) -> Any:
    """The site of a layer, as ``attach`` would make it; the last one before it where it acts in fewer."""
    layers = sorted(reducer.reducer.layers(synthetic_backbone()))
    chosen = layers[0] if layer is None or layer not in layers else layer
    return site(chosen, layers.index(chosen), len(layers))


def reductions(
    reducer: SiteReducer, draw: Draw, values: Values | None = None, where: Any = None
) -> list[tuple[str, Stream, Reduction]]:
    """What a reducer does to streams in evaluation: the name of each, the stream, and its reduction."""
    streams: Streams = draw.streams(draw.values() if values is None else values, frozenset(reducer.needs))
    chosen = reducer.reduce_streams(streams, where_of(reducer) if where is None else where)
    found = []
    for name, reduction in chosen.items():
        assert name in (*streams, streams.sequence), (
            f"reductions come by stream ({', '.join(streams)}, {streams.sequence}), got {name!r}"
        )
        assert isinstance(reduction, Reduction), f"in evaluation give a Reduction, got {type(reduction).__name__}"
        found.append((name, streams.whole() if name == streams.sequence else streams[name], reduction))
    return found


def tokens_left(stream: Stream, reduction: Reduction) -> list[Tensor]:
    """The tokens (K, C) that a reduction leaves of each sample, without what fills it up."""
    y = reduction.apply(stream.tokens.x)
    return list(y) if reduction.valid is None else [one[valid] for one, valid in zip(y, reduction.valid, strict=True)]


def check_padding_first(name: str, stream: Stream, reduction: Reduction) -> None:
    """Raise AssertionError where a sample keeps padding and loses a real token, numbers being different by sample."""
    real, gone = stream.tokens.real, reduction.assignment() < 0
    assert real is not None
    padding_stays = (~real & ~gone)[:, stream.tokens.prefix :].any(dim=1)
    assert not (padding_stays & (real & gone).any(dim=1)).any(), (
        f"stream {name!r}: real tokens went while padding stayed; score padding below all else (tokens.keep_top does)"
    )


def check_reduction(name: str, stream: Stream, reduction: Reduction) -> None:
    """Raise AssertionError where a reduction says of itself what is not so."""
    tokens = stream.tokens
    count, label = tokens.count, f"stream {name!r}"
    assert reduction.length == count, f"{label}: length is {reduction.length}, the stream has {count} tokens"
    assert reduction.keep.shape[0] == len(tokens.x), f"{label}: keep is {tuple(reduction.keep.shape)}"
    for row in range(len(tokens.x)):
        every, into = reduction.keep[row].tolist(), [] if reduction.target is None else reduction.target[row].tolist()
        if reduction.valid is not None:
            valid = reduction.valid[row].tolist()
            assert all(valid[end] for end in into if end >= 0), f"{label}: a fold into what is no token"
            every = [token for token, stands in zip(every, valid, strict=True) if stands]
        kept = [token for token in every if token >= 0]
        fresh = len(every) - len(kept)
        assert fresh <= reduction.fresh, f"{label}: {fresh} new tokens in a row, fresh says {reduction.fresh}"
        folded = [] if reduction.source is None else reduction.source[row].tolist()
        if reduction.valid is not None:  # how many fold differs, so there may be folds into nothing
            folded = [token for token, end in zip(folded, into, strict=True) if end >= 0]
        both = kept + folded
        assert len(set(both)) == len(both), f"{label}: a token is kept or folded twice: {sorted(both)}"
        assert all(0 <= token < count for token in both), f"{label}: an index outside 0..{count - 1}: {sorted(both)}"
        if reduction.target is not None:
            assert all(-1 <= end < reduction.count for end in into), f"{label}: a fold into {sorted(into)}"
            assert reduction.partial or -1 not in into, f"{label}: folds are dropped (-1) without partial=True"
    size = tokens.sizes()
    after, ends = reduction.add_up(size), reduction.assignment()
    lost = torch.where(ends < 0, size, torch.zeros_like(size)).sum(dim=1)
    assert_close(after.sum(dim=1) + lost, size.sum(dim=1), what=f"sizes of {label}, dropped ones added")
    assert reduction.apply(tokens.x).isfinite().all(), f"{label}: not finite"


def plain(reducer: SiteReducer) -> bool:
    """Whether the base class asks the budget and hands over the number."""
    return type(reducer).reduce_streams is BaseReducer.reduce_streams


def zeros(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in values.items()}
