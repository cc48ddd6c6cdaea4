"""What holds for a reducer on a whole model. Axes: B batch, N tokens."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach
from ..backbones.causal import BETWEEN_LAYERS
from ..errors import TokenReduceError, UnfitReducerError, UnknownOptionError
from ..registry.registry import default_registry
from .comparison import assert_close, identical
from .models import (
    backward,
    batch_of_three,
    cast,
    change_inputs,
    language_models,
    last,
    pick_samples,
    reduced_stack,
    run,
)
from .snapshot import snapshot
from .subject import ReducerCase, Subject

Setting = Mapping[str, Any]


class ModelLaws(ReducerCase):
    """Laws of a reducer on tiny models; :class:`tokenreduce.testing.ReducerConformance` has them all."""

    def test_some_backbone_takes_it(self, setting: Setting) -> None:
        """Of the families installed at least one runs the reducer; each refusal says why in a sentence."""
        reasons, taken = dict[str, str](), list[str]()
        inside = BETWEEN_LAYERS & set(self.made(setting).needs)
        for name in [*self.backbones, *(language_models() if inside else ())]:
            if inside and taken:
                break
            try:
                self.on(setting, name).attach().detach()
                taken.append(name)
            except UnfitReducerError as error:
                reasons[name] = str(error)
            except pytest.skip.Exception:
                continue
        assert taken, f"no backbone takes the reducer with {dict(setting)}: {reasons or 'no family is installed'}"
        assert all(len(reason) > 20 for reason in reasons.values()), reasons

    def test_what_the_spec_says(self, setting: Setting) -> None:
        """A registered reducer's spec names the signals of its defaults; every option is kept under its own name."""
        if isinstance(self.reducer, str) and self.reducer in default_registry().reducers:
            spec = default_registry().reducers[self.reducer].spec
            needs = set(spec.load()().needs)
            assert set(getattr(spec, "needs", ())) == needs, f"the spec's needs should be {sorted(needs)}"
            assert spec.description, "the spec has no description"
        options = self.made(setting).reducer.options()
        assert json.loads(json.dumps(options)) is not None, "options must be JSON-able"
        for name in setting:
            assert name in options, f"the option {name!r} is not among {sorted(options)}"

    def test_tokens_go_where_the_report_says(self, subject: Subject) -> None:
        """The blocks hand on as many tokens as the report says; the output is finite; some tokens went."""
        with subject.attach() as handle, torch.no_grad(), watch_tokens(handle) as seen:
            for tensor in subject.run():
                assert not tensor.is_floating_point() or tensor.isfinite().all(), "the output is not finite"
            record, stack = last(handle), reduced_stack(handle).stack
            rows = record.sites
            for index, (_, given) in enumerate(zip(stack.blocks, seen, strict=True)):
                assert given == record.between[index + 1][stack.role(index).own], (
                    f"block {index} handed on {given} tokens"
                )
            for row in rows:
                assert type(row.tokens_in) is int and type(row.tokens_out) is int, "counts are whole numbers"
                assert 0 < row.tokens_out <= row.tokens_in, row
            assert self.baseline or any(row.tokens_out < row.tokens_in for row in rows), f"nothing went: {rows}"
            ragged = reduced_stack(handle).reducer.ragged
            for change in (torch.zeros_like, lambda x: 100 * x, torch.ones_like):
                subject.run(change_inputs(subject.inputs, change))
                assert ragged or last(handle).sites == rows, "other pictures, other numbers of tokens"

    def test_a_budget_of_zero_changes_nothing(self, subject: Subject) -> None:
        with torch.no_grad():
            with attach(subject.model, "none", adapter=subject.adapter):
                expected = subject.run()
            with subject.attach(self.zero, trace=True) as handle:
                if self.zero is None and not self.baseline:
                    handle.scale(0.0)
                assert identical(subject.run(), expected), f"{reduced_stack(handle).reducer} should change no bit"
                trace = last(handle).trace
                assert trace is not None
                source = trace.source
                assert torch.equal(source, torch.arange(source.shape[1]).expand_as(source)), "a token went elsewhere"

    def test_samples_are_reduced_one_by_one(self, subject: Subject) -> None:
        """In another order, or alone, a sample gives the same.

        Where samples keep different numbers of tokens, what fills up the shorter ones comes last.
        """
        inputs = cast(batch_of_three(subject.inputs), torch.float64)
        subject.model.double()
        with subject.attach() as handle, torch.no_grad():
            if reduced_stack(handle).reducer.stochastic:
                return
            ragged = reduced_stack(handle).reducer.ragged
            whole = comparable_outputs(handle, subject.run(inputs))
            for rows in ([2, 0, 1], [0], [1], [2]):
                got = comparable_outputs(handle, subject.run(pick_samples(inputs, rows)))
                for one, every in zip(got, whole, strict=True):
                    expected = of_samples(every, rows)
                    if ragged and one.ndim == 3 and one.shape[1] < expected.shape[1]:
                        expected = expected[:, : one.shape[1]]
                    assert_close(one, expected, 1e-6, what=f"samples {rows} of the batch by themselves")

    def test_the_same_whatever_the_seed(self, subject: Subject) -> None:
        """Attach draws nothing from torch's generator; an evaluation pass gives the same bits twice."""
        before = torch.get_rng_state()
        handle = subject.attach()
        assert torch.equal(torch.get_rng_state(), before), "attach drew from torch's generator"
        with handle, torch.no_grad():
            expected = comparable_outputs(handle, subject.run())
            torch.manual_seed(1)
            assert identical(comparable_outputs(handle, subject.run()), expected), "the same pass gave something else"
            subject.model.train()
            subject.run()
            subject.model.eval()
            assert identical(comparable_outputs(handle, subject.run()), expected), (
                "a pass in training mode left something behind"
            )

    def test_training_reaches_every_weight(self, subject: Subject) -> None:
        """What the plain model trains is trained, in numbers; of a learnable reducer every weight as well."""
        model = subject.model
        for training in (False, True):
            model.train(training).zero_grad()
            backward(loss(subject.run()))
            wanted = {name for name, p in model.named_parameters() if p.grad is not None}
            model.zero_grad()
            with subject.attach() as handle:
                model.train(training)
                backward(loss(subject.run()) + sum(last(handle).losses.values()))
                grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
                own = {name for name, _ in model.named_parameters() if name not in dict(plain_parameters(model))}
            missing = (wanted | (own if training else set())) - set(grads)
            assert not missing, f"no gradient (training={training}) for {', '.join(sorted(missing))}"
            assert all(grad.isfinite().all() for grad in grads.values()), f"not finite (training={training})"
        model.eval()

    def test_half_precision(self, subject: Subject) -> None:
        """In bfloat16: finite, of the model's type, near what float32 gives where only the last layer reduces."""
        dtype = torch.bfloat16
        model, inputs = subject.model, cast(subject.inputs, dtype)
        with torch.no_grad():
            expected, exact = late(subject, subject.inputs)
            model.to(dtype)
            plain = subject.run(inputs)
            with subject.attach():
                for tensor, other in zip(subject.run(inputs), plain, strict=True):
                    assert tensor.dtype == other.dtype, f"{other.dtype} became {tensor.dtype}"
                    assert not tensor.is_floating_point() or tensor.isfinite().all(), f"not finite in {dtype}"
            got, _ = late(subject, inputs)
        for one, other, reference, rounded in zip(got, expected, exact, plain, strict=True):
            if other.is_floating_point() and reference.shape == other.shape:
                error, usual = distance(one, other), distance(rounded, reference)
                assert error <= 5 * usual + 0.25, f"{dtype} is off by {error:.3g}; the plain model by {usual:.3g}"

    def test_detach_leaves_nothing(self, subject: Subject) -> None:
        """Nor does an exception in the middle of a pass; the model is bit for bit what it was."""
        model, untouched = subject.model, snapshot(subject.model)
        with torch.no_grad():
            plain = subject.run()
            handle = subject.attach()
            expected = subject.run()
            for index in {0, len(reduced_stack(handle).stack.blocks) - 1}:
                hook = reduced_stack(handle).stack.blocks[index].register_forward_pre_hook(stumble)
                with pytest.raises(InTheMiddleError):
                    subject.run()
                hook.remove()
                assert identical(subject.run(), expected), (
                    "after an exception in the middle a pass gives something else"
                )
            handle.detach()
            handle.detach()
            assert snapshot(model) == untouched, "detach left something on the model"
            assert identical(subject.run(), plain), "after detach the model gives something else"

    def test_an_exception_in_the_reducer_leaves_nothing(self, subject: Subject) -> None:
        untouched = snapshot(subject.model)
        with torch.no_grad():
            plain = subject.run()
            with subject.attach() as handle:
                reduced = reduced_stack(handle)
                object.__setattr__(reduced.reducer, "reduce_streams", stumble)
                idle = all(reduced.reducer.idle(site) for site in reduced.sites)  # such a reducer is never asked
                with nullcontext() if idle else pytest.raises(InTheMiddleError):
                    subject.run()
            assert snapshot(subject.model) == untouched, "detach left something on the model"
            assert identical(subject.run(), plain), "after detach the model gives something else"

    def test_trace_and_sizes_agree(self, subject: Subject) -> None:
        """Each input token is in one place; protected ones are by themselves; sizes count the members."""
        with subject.attach(trace=True) as handle, torch.no_grad():
            subject.run()
            trace, stack = last(handle).trace, reduced_stack(handle).stack
            assert trace is not None
            prefix = stack.prefix["text" if "text" in stack.prefix else "image"]
            assert trace.source.shape[1] == sum(trace.first.values())
            for members, size in zip(trace, trace.size, strict=True):
                assert members[:prefix] == [[token] for token in range(prefix)], "a protected token moved, or grew"
                for own, counted in zip(members, size.tolist(), strict=True):
                    assert counted <= len(own) and counted == int(counted), f"a token of {own} has size {counted}"

    def test_everything_comes_back_on_request(self, subject: Subject) -> None:
        """``restore=True``: every token at its place, as many as without reduction."""
        with torch.no_grad():
            with attach(subject.model, "none", adapter=subject.adapter):
                shapes = [tensor.shape for tensor in subject.run()]
            with subject.attach(restore=True):
                whole = subject.run()
        assert [tensor.shape for tensor in whole] == shapes, "restore=True gives other shapes than no reduction"
        assert all(t.isfinite().all() for t in whole if t.is_floating_point())

    def test_config_copies_and_scale(self, subject: Subject) -> None:
        """``handle.config`` repeats the attachment; a copy is independent; ``scale`` goes to zero and back."""
        with torch.no_grad():
            with subject.attach() as handle:
                expected, config = subject.run(), json.loads(json.dumps(handle.config))
                twin = copy.deepcopy(subject.model)
                assert identical(run(twin, subject.inputs), expected), "a deepcopy of the model gives something else"
                rows = last(handle).sites
                with suppress(UnfitReducerError):  # a method without a knob
                    handle.scale(0.0)
                    subject.run()
                    assert all(row.tokens_in == row.tokens_out for row in last(handle).sites), "scale(0) removes tokens"
                    handle.scale(1.0)
                    assert identical(subject.run(), expected), "scale(1) is not what was configured"
                    assert last(handle).sites == rows
            if not isinstance(reduced_stack(handle).reducer, nn.Module):  # new weights are other weights
                with attach(subject.model, **config):
                    assert identical(subject.run(), expected), "attach(model, **handle.config) gives something else"

    def test_a_misspelt_option_is_refused(self, setting: Setting) -> None:
        if isinstance(self.reducer, str):
            with pytest.raises(UnknownOptionError, match="no_such_option"):
                attach(nn.Linear(2, 2), self.reducer, no_such_option=1)

    def test_compiles_without_a_break(self, compiled_backbone: str) -> None:
        """One graph of the whole model, that answers as the eager one, also to other pictures."""
        subject = self.on(self.settings[0], compiled_backbone)
        try:
            handle = subject.attach()
        except UnfitReducerError as error:
            pytest.skip(f"refused: {error}")
        with handle, torch.no_grad():
            other = change_inputs(subject.inputs, lambda x: x.flip(0))
            expected, second = subject.run(), subject.run(other)
            torch._dynamo.reset()  # type: ignore[no-untyped-call]
            try:
                compiled: Any = torch.compile(subject.model, fullgraph=True, backend="eager")
                for inputs, wanted in ((subject.inputs, expected), (other, second)):
                    for got, tensor in zip(run(compiled, inputs), wanted, strict=True):
                        assert_close(got, tensor, what="compiled")
            finally:
                torch._dynamo.reset()  # type: ignore[no-untyped-call]


class InTheMiddleError(Exception):
    """Raised on purpose."""


def stumble(*args: Any) -> Any:
    raise InTheMiddleError


def loss(outputs: Sequence[Tensor]) -> Tensor:
    """One number that every floating-point output with a history has a part in."""
    return torch.stack([t.float().square().mean() for t in outputs if t.requires_grad]).sum()


def distance(one: Tensor, other: Tensor) -> float:
    """Relative distance of two tensors as vectors."""
    return float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-6))


def late(subject: Subject, inputs: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs with the last layer reducing, and without any reduction; the latter twice where options forbid it."""
    plain = subject.run(inputs)
    with subject.attach() as handle:
        layer = max(site.layer for site in handle.sites)
    try:
        with subject.attach(layers=[layer]):
            return subject.run(inputs), plain
    except TokenReduceError:
        return plain, plain


def of_samples(output: Tensor, rows: list[int]) -> Tensor:
    """The part of a batch's output that belongs to some of its samples; scores of every pair have two such axes."""
    if output.ndim == 0:
        return output
    return output[rows][:, rows] if output.ndim == 2 and output.shape[0] == output.shape[1] == 3 else output[rows]


def comparable_outputs(handle: Attachment, outputs: list[Tensor]) -> list[Tensor]:
    """Outputs without the tokens whose order is the model's own affair: where only the text comes back, the rest."""
    one = reduced_stack(handle)
    record, text_stream = one.last, one.stack.text_stream
    if record is None or text_stream not in record.initial or one.output not in (text_stream, "reduced"):
        return outputs
    text, every = record.initial[text_stream], {sum(record.initial.values()), sum(record.tokens.values())}
    return [t[:, :text] if t.ndim == 3 and t.shape[1] in every and t.shape[1] > text else t for t in outputs]


def plain_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a model without those of a learnable reducer on it."""
    for name, parameter in model.named_parameters():
        if "tokenreduce" not in name.split("."):
            yield name, parameter


@contextmanager
def watch_tokens(handle: Attachment) -> Iterator[list[int]]:
    """How many tokens each block of the first stack hands on, in the order they run."""
    stack, seen = reduced_stack(handle).stack, list[int]()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(stack.unpack(output).shape[1])

    hooks = [block.register_forward_hook(note) for block in stack.blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
