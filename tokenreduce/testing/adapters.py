"""The class to subclass for an adapter. Axes: B batch, N tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ..attachments.adapter_lookup import find_adapter
from ..attachments.handle import Attachment
from ..attachments.lifecycle import attach
from ..backbones.adapter import Adapter, Example
from ..backbones.causal import CausalStack
from ..backbones.stack import Stack
from ..core.signals import WHOLE
from ..engine.causal.run import NEXT
from ..errors import OptionError, UnsupportedModelError
from ..methods.reducer import BaseReducer
from ..registry.registry import Registry, default_registry, use_registry
from ..registry.spec import AdapterSpec
from .comparison import assert_close, identical
from .model_laws import (
    InTheMiddleError,
    comparable_outputs,
    distance,
    loss,
    of_samples,
    plain_parameters,
    stumble,
    watch_tokens,
)
from .models import backward, batch_of_three, cast, change_inputs, last, pick_samples, quietly, reduced_stack, run
from .probes import Halve, Listener, Pair
from .snapshot import snapshot

CHECKPOINTING = ("activation_checkpointing_enable", "gradient_checkpointing_enable", "set_grad_checkpointing")


class AdapterConformance:
    """Everything that an adapter must hold to; subclass it as ``Test...`` and set :attr:`adapter`.

        class TestMyFamily(AdapterConformance):
            adapter = "my-family"

    The models are the adapter's own ``examples()``: small ones of every class it takes, with noise in every weight so
    that no part can hide, and inputs for a batch of two.

    Attributes:
        adapter: the registered name, or the class.
        examples: labels of some of ``examples()``; all of them if left out.
    """

    adapter: ClassVar[str | type[Adapter]]
    examples: ClassVar[Sequence[str] | None] = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "label" in metafunc.fixturenames:
            labels = list(self._made().examples()) if self._usable() else []
            metafunc.parametrize("label", labels if self.examples is None else self.examples)

    @pytest.fixture(autouse=True)
    def in_force(self) -> Iterator[None]:
        """The adapter among the registered ones, few threads, a seed."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.manual_seed(0)
        try:
            with use_registry(self._registry()):
                yield
        finally:
            torch.set_num_threads(threads)

    @pytest.fixture
    def example(self, label: str) -> Example:
        """A tiny model and its inputs."""
        made = quietly(self._made().examples()[label])
        return Example(made.model.eval(), dict(made.inputs))

    def test_there_are_examples(self) -> None:
        """Examples are what documentation and tests try the adapter on: at least one, and small."""
        if not self._usable():
            pytest.skip(f"the library of adapter {self._name()!r} is not installed")
        examples = self._made().examples()
        assert examples, f"{type(self._made()).__name__}.examples() is empty; give a small model with random weights"

    def test_the_adapter_takes_its_examples(self, example: Example) -> None:
        """By itself it accepts them, and the registry finds it for them; they are small, two samples each."""
        model, adapter = example.model, self._made()
        assert adapter.accepts(model), f"accepts() says no to a {type(model).__name__} of its own examples()"
        found = find_adapter(default_registry(), model, None)[0]
        assert found == self._name(), f"of the registered adapters {found!r} is used for {type(model).__name__}"
        assert sum(p.numel() for p in model.parameters()) < 10_000_000, "an example should be small"
        sizes = {len(value) for value in example.inputs.values() if isinstance(value, Tensor)}
        assert sizes == {2}, f"inputs should be a batch of two, got {sizes}"
        for name, stack in adapter.stacks(model).items():
            assert stack.name == name, f"stacks() has {stack.name!r} under {name!r}"
        assert not adapter.accepts(nn.Linear(2, 2)), "accepts() says yes to a Linear layer"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    def test_without_reduction_nothing_changes(self, example: Example, dtype: torch.dtype) -> None:
        """Every tensor that the model gives, through the engine and without, within the tolerance of its type."""
        model, inputs = example.model.to(dtype), cast(example.inputs, dtype)
        with torch.no_grad():
            expected = run(model, inputs)
            for stack in self._stacks(model):
                with attach(model, {stack: "none"}, adapter=self._name()) as handle:
                    got = run(model, inputs)
                    assert len(got) == len(expected), f"stack {stack!r}: {len(expected)} tensors became {len(got)}"
                    pairs = zip(comparable_outputs(handle, got), comparable_outputs(handle, expected), strict=True)
                    for number, (one, other) in enumerate(pairs):
                        assert_close(one, other, what=f"output {number} with 'none' on stack {stack!r}")

    @pytest.mark.parametrize("probe", [Halve, Pair], ids=["drop", "merge"])
    def test_tokens_go_and_the_output_is_whole(self, example: Example, probe: type[BaseReducer]) -> None:
        """Blocks hand on what the report says, hooks fire once each, and the head gets what it expects."""
        model = example.model
        with torch.no_grad():
            shapes = [tensor.shape for tensor in run(model, example.inputs)]
            for stack in self._stacks(model):
                with attach(model, {stack: probe()}, adapter=self._name()) as handle, watch_tokens(handle) as seen:
                    outputs = run(model, example.inputs)
                    one, rows = reduced_stack(handle), last(handle).sites
                    assert any(row.tokens_out < row.tokens_in for row in rows), f"stack {stack!r}: nothing went"
                    if stack in self._viewed(model):
                        calls = len(seen) // len(one.stack.blocks)
                        assert seen == self._handed_on(handle) * calls, f"stack {stack!r}: hooks saw {seen} tokens"
                    assert all(t.isfinite().all() for t in outputs if t.is_floating_point()), "not finite"
                    if one.output == "full" or (one.output == "repeated" and probe is Pair):
                        got = [tensor.shape for tensor in outputs]
                        assert got == shapes, f"stack {stack!r} gives back {got}, the plain model {shapes}"
                    run(model, change_inputs(example.inputs, lambda x: 50 * x))
                    assert last(handle).sites == rows, f"stack {stack!r}: other inputs, other numbers of tokens"

    def test_restored_tokens_stand_at_their_places(self, example: Example) -> None:
        """``restore=True`` on every stack: the shapes of the plain model."""
        model = example.model
        with torch.no_grad():
            shapes = [tensor.shape for tensor in run(model, example.inputs)]
            for stack in self._viewed(model):
                with attach(model, {stack: Halve()}, adapter=self._name(), restore=True):
                    got = [tensor.shape for tensor in run(model, example.inputs)]
                    assert got == shapes, f"stack {stack!r} gives back {got}, the plain model {shapes}"

    @pytest.mark.parametrize("probe", ["none", Halve], ids=["none", "drop"])
    def test_the_head_reads_its_rows_alone(self, example: Example, probe: str | type[BaseReducer]) -> None:
        """``readout_only=True``: the same output where a stack has ``head_rows``; a refusal where it has none."""
        model = example.model
        for stack in self._stacks(model):
            given = {stack: probe if isinstance(probe, str) else probe()}
            if not self._stack(model, stack).head_rows:
                with pytest.raises(UnsupportedModelError, match="readout_only"):
                    attach(model, given, adapter=self._name(), readout_only=True)
                continue
            with torch.no_grad():
                with attach(model, given, adapter=self._name()):
                    expected = run(model, example.inputs)
                with attach(model, given, adapter=self._name(), readout_only=True):
                    got = run(model, example.inputs)
            assert [tensor.shape for tensor in got] == [tensor.shape for tensor in expected], (
                f"stack {stack!r} gives back more than its first {self._stack(model, stack).head_rows} tokens"
            )
            for number, (one, other) in enumerate(zip(got, expected, strict=True)):
                assert_close(one, other, what=f"output {number} with readout_only on stack {stack!r}")

    def test_signals_are_what_is_promised(self, example: Example) -> None:
        """``provides`` of a layer's blocks can be read: each is finite, and attention is a share of one."""
        model = example.model
        for stack in self._stacks(model):
            promised = frozenset[str]().union(*(one for one in self._provided(self._stack(model, stack))))
            for signal in sorted(promised - set(WHOLE)):
                plan: dict[str, Any] = {"reducer": Listener(signals=(signal,))}
                if signal in NEXT:  # none comes after the last layer
                    plan["layers"] = list(range(len(self._stack(model, stack).blocks) - 1))
                with attach(model, {stack: plan}, adapter=self._name()) as handle, torch.no_grad():
                    run(model, example.inputs)
                    heard = reduced_stack(handle).reducer.reducer.heard
                for (layer, stream), values in heard.items():
                    value, where = values[signal], f"{signal} of stream {stream!r}, layer {layer} of stack {stack!r}"
                    assert value.shape[:2] == values["x"].shape[:2], f"{where}: {tuple(value.shape)}"
                    assert value.isfinite().all(), f"{where} is not finite"
                    if signal.endswith("_attention"):
                        real, patches = values["real"], values["patches"].sum(dim=1).clamp(min=1)
                        total = torch.where(real, value, 0).sum(dim=1)
                        if signal == "paid_attention":  # a mean over patches of what each token pays
                            total = total * patches / real.sum(dim=1)
                        assert (value >= 0).all() and (total <= 1 + 1e-3).all(), f"{where}: no share of one"

    def test_samples_are_reduced_one_by_one(self, example: Example) -> None:
        """In another order, or alone, a sample gives the same; a loss of the whole batch is not compared."""
        model, inputs = example.model.double(), cast(batch_of_three(example.inputs), torch.float64)
        with torch.no_grad():
            whole, part = run(model, inputs), run(model, pick_samples(inputs, [1]))
        pairs = enumerate(zip(whole, part, strict=False))
        losses = {i for i, (one, other) in pairs if one.ndim == other.ndim == 0 and one != other}
        with attach(model, Halve(), adapter=self._name()) as handle, torch.no_grad():
            whole = comparable_outputs(handle, run(model, inputs))
            for rows in ([2, 0, 1], [1]):
                got = comparable_outputs(handle, run(model, pick_samples(inputs, rows)))
                every_one = whole
                if self._is_language(model):  # it gives lists of image features, too
                    got = [tensor for tensor in got if tensor.ndim and len(tensor) == len(rows)]
                    every_one = [tensor for tensor in whole if tensor.ndim and len(tensor) == 3]
                for number, (one, every) in enumerate(zip(got, every_one, strict=True)):
                    if number not in losses:
                        expected = of_samples(every, rows)
                        assert_close(one, expected, 1e-6, what=f"samples {rows} of the batch by themselves")

    def test_gradients(self, example: Example) -> None:
        """Without reduction those of the plain model; with it, every weight is still trained."""
        model = example.model
        backward(loss(run(model, example.inputs)))
        expected = grads(model)
        for stack in self._stacks(model):
            model.zero_grad()
            with attach(model, {stack: "none"}, adapter=self._name()) as handle:
                backward(loss(run(model, example.inputs)))
                got = grads(model)
                assert set(got) == set(expected), f"stack {stack!r}: {sorted(set(expected) ^ set(got))}"
                if reduced_stack(handle).output != "text":  # there the order of the others is the model's own affair
                    assert_gradients(got, expected, f"with 'none' on stack {stack!r}")
            model.zero_grad()
            with attach(model, {stack: Halve()}, adapter=self._name()):
                backward(loss(run(model.train(), example.inputs)))
                got = grads(model.eval())
            assert set(expected) <= set(got), f"stack {stack!r}: no gradient for {set(expected) - set(got)}"
            assert all(value.isfinite().all() for value in got.values()), f"stack {stack!r}: not finite"

    def test_gradient_checkpointing(self, example: Example) -> None:
        """Where the model has a switch for it, loss and gradients are the same with it."""
        model = example.model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        switch = next((name for name in CHECKPOINTING if hasattr(model, name)), None)
        if switch is None:
            return
        with attach(model, Halve(), adapter=self._name()):
            backward(loss(run(model, example.inputs)))
            expected = grads(model)
            model.zero_grad()
            try:
                getattr(model, switch)()
            except (ValueError, NotImplementedError):  # the library says that this model has none
                return
            backward(loss(run(model, example.inputs)))
        got = grads(model)
        assert set(got) == set(expected), set(expected) ^ set(got)
        assert_gradients(got, expected, "through checkpoints")

    def test_a_block_that_does_something_else_is_refused(self, example: Example) -> None:
        """A class of block that nobody has seen is not taken for one that was: attach refuses."""
        model = example.model
        for name in self._viewed(model):
            stack = self._stack(model, name)
            block = stack.blocks[-1]
            kind, untouched = type(block), snapshot(model)

            def forward(self: nn.Module, *args: Any, kind: Any = kind, stack: Stack = stack, **kwargs: Any) -> Any:
                return stack.pack(1.5 * stack.unpack(kind.forward(self, *args, **kwargs)))

            block.__class__ = type(kind.__name__, (kind,), {"forward": forward})
            try:
                with pytest.raises(UnsupportedModelError):
                    attach(model, {name: Halve()}, adapter=self._name())
            finally:
                block.__class__ = kind
            assert snapshot(model) == untouched, "a refusal left something on the model"

    def test_detach_leaves_nothing(self, example: Example) -> None:
        """Nor does an exception in any block; weights are those of the plain model under the same names."""
        model = example.model
        with torch.no_grad():
            plain = run(model, example.inputs)  # before the look: a library may put hooks of its own there
            untouched = snapshot(model)
            for name in self._stacks(model):
                handle = attach(model, {name: Halve()}, adapter=self._name())
                assert list(model.state_dict()) == untouched[2], "attach changed the names of the weights"
                expected = run(model, example.inputs)
                for block in reduced_stack(handle).stack.blocks:
                    hook = block.register_forward_pre_hook(stumble)
                    with pytest.raises(InTheMiddleError):
                        run(model, example.inputs)
                    hook.remove()
                assert identical(run(model, example.inputs), expected), (
                    "an exception in the middle left something behind"
                )
                handle.detach()
                assert snapshot(model) == untouched, f"stack {name!r}: detach left something on the model"
                assert identical(run(model, example.inputs), plain), (
                    f"stack {name!r}: after detach something else comes out"
                )

    def test_copies(self, example: Example) -> None:
        """A deepcopy of an attached model is attached by itself, with weights of its own."""
        model = example.model
        with attach(model, Pair(), adapter=self._name()), torch.no_grad():
            expected = run(model, example.inputs)
            twin = copy.deepcopy(model)
            for parameter in model.parameters():
                parameter.add_(0.1)
            assert identical(run(twin, example.inputs), expected), "the copy changed with the model"

    def test_bfloat16(self, example: Example) -> None:
        """Of the model's type, finite, and the plain model's output where nothing is removed but in the last layer."""
        model = example.model
        with torch.no_grad():
            exact = run(model, example.inputs)
            model.to(torch.bfloat16)
            inputs = cast(example.inputs, torch.bfloat16)
            plain = run(model, inputs)
            with attach(model, Halve(), adapter=self._name()):
                for one, other in zip(run(model, inputs), plain, strict=True):
                    assert one.dtype == other.dtype, f"{other.dtype} became {one.dtype}"
                    assert not one.is_floating_point() or one.isfinite().all(), "not finite"
            with attach(model, "none", adapter=self._name()) as handle:
                got = comparable_outputs(handle, run(model, inputs))
                pairs = zip(got, comparable_outputs(handle, plain), comparable_outputs(handle, exact), strict=True)
                for one, rounded, reference in pairs:
                    if one.is_floating_point():
                        assert distance(one, reference) <= 3 * distance(rounded, reference) + 0.01

    def test_an_own_size_is_no_change(self, example: Example) -> None:
        """``resized`` to the size that the model is for gives the same; what cannot be resized says why."""
        adapter, model = self._made(), example.model
        images = [v for v in example.inputs.values() if isinstance(v, Tensor) and v.ndim >= 4]
        if not images:
            return
        height, width = images[0].shape[-2:]
        try:
            other = adapter.resize(model, height, width)
        except (UnsupportedModelError, OptionError) as error:
            if len(str(error)) < 20:
                pytest.fail(f"resized refuses and says no more than {error!r}")
            return
        with torch.no_grad():
            for one, expected in zip(run(other, example.inputs), run(model, example.inputs), strict=True):
                assert_close(one, expected, what="resized to its own size")

    def test_what_is_refused_says_why(self, example: Example) -> None:
        for name, reason in self._made().refusals(example.model).items():
            with pytest.raises(UnsupportedModelError, match="cannot be reduced"):
                attach(example.model, {name: "none"}, adapter=self._name())
            assert len(reason) > 20, f"{name}: {reason}"

    def test_compiles_without_a_break(self, example: Example, label: str) -> None:
        """The first example: one graph of the whole model, that answers as the eager one."""
        if label != next(iter(self._made().examples() if self.examples is None else self.examples)):
            return
        model = example.model
        if self._is_language(model):  # it looks at where its images are
            return
        with attach(model, Halve(), adapter=self._name()), torch.no_grad():
            expected = run(model, example.inputs)
            torch._dynamo.reset()  # type: ignore[no-untyped-call]
            try:
                compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
                for got, tensor in zip(run(compiled, example.inputs), expected, strict=True):
                    assert_close(got, tensor, what="compiled")
            finally:
                torch._dynamo.reset()  # type: ignore[no-untyped-call]

    def _made(self) -> Adapter:
        if isinstance(self.adapter, str):
            adapter: Adapter = default_registry().load("adapter", self.adapter)()
            return adapter
        return self.adapter()

    def _name(self) -> str:
        return self.adapter if isinstance(self.adapter, str) else "under-test"

    def _usable(self) -> bool:
        return not isinstance(self.adapter, str) or default_registry().entry("adapter", self.adapter).usable

    def _registry(self) -> Registry:
        registry = default_registry().copy()
        if not isinstance(self.adapter, str):
            target = f"{self.adapter.__module__}:{self.adapter.__qualname__}"
            registry.add(AdapterSpec("under-test", target, "the adapter under test"))
        return registry

    def _stacks(self, model: nn.Module) -> list[str]:
        return list(self._made().stacks(model))

    def _viewed(self, model: nn.Module) -> list[str]:
        """Stacks whose blocks run in parts, through views; those of language models run whole."""
        return [name for name, stack in self._made().stacks(model).items() if not isinstance(stack, CausalStack)]

    def _is_language(self, model: nn.Module) -> bool:
        """Whether it is a language model with images, perhaps with a tower whose blocks run in parts."""
        return any(isinstance(stack, CausalStack) for stack in self._made().stacks(model).values())

    def _stack(self, model: nn.Module, name: str) -> Stack:
        return self._made().stacks(model)[name]

    def _provided(self, stack: Stack) -> list[frozenset[str]]:
        return [stack.provides(index) for index in range(max(len(stack.blocks), 1))]

    def _handed_on(self, handle: Attachment) -> list[int]:
        """How many tokens each block hands on, by the record of the pass."""
        stack, between = reduced_stack(handle).stack, last(handle).between
        return [between[index + 1][stack.role(index).own] for index in range(len(stack.blocks))]


def grads(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that there are, by the names of the plain model's weights."""
    return {name: p.grad.clone() for name, p in plain_parameters(model) if p.grad is not None}


def assert_gradients(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Check gradients one by one; those that are nothing but rounding (of a key's bias) against the largest of all."""
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        tolerance = 1e-3 * max(1.0, 1e-3 * largest / max(float(value.abs().max()), 1e-12))
        assert_close(got[name], value, tolerance, what=f"gradient of {name} {where}")
