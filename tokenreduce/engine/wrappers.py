"""What stands in for a block's and a stack's ``forward`` while a reducer is attached. Axes: B batch, N tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedCallError
from .binding import Binding
from .one_pass import BlockResult
from .run import Run


class BlockForward:
    """Stands in for one block's ``forward``. A plain object, so that deepcopy and pickle keep it with its block."""

    def __init__(self, binding: Binding, block: nn.Module, index: int) -> None:
        self.binding, self.block, self.index = binding, block, index

    def __call__(
        self, x: Tensor, memory: Tensor | None = None, *args: Any, run: Run | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(run, Run):
            raise UnsupportedCallError(
                f"block {self.index} of {type(self.binding.stack.module).__name__} was called by itself while a "
                "reducer is attached (by forward_intermediates, an attention mask, or a call of your own); it "
                "expects to be run by the whole stack. Call model(...) without a mask, or handle.detach() first."
            )
        checkpoint = self.binding.stack.checkpointer(self.block)
        if checkpoint is None and memory is None and run.alone(self.index):
            return self.binding.stack.pack(run.plain(self.index, x, self.block.training))
        if checkpoint is None:
            result = self.compute(x, memory, run)
            if result.memory is None and result.before is None and result.memory_before is None:
                return self.binding.stack.pack(result.x)
            run.check_restored(self.index, result)
        else:
            result = BlockResult(*checkpoint(self.compute, x, memory, run))
        run.close(self.index, result)
        return self.binding.stack.pack(result.x)

    def compute(self, x: Tensor, memory: Tensor | None, run: Run) -> BlockResult:
        """What the block gives."""
        return run.step(self.index, x, memory, self.block.training)


class Likeness:
    """What stands in for a method looks like it to libraries that ask what a model takes, or where its code is."""

    module: nn.Module
    attribute: str

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(getattr(type(self.module), self.attribute))
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @property
    def __code__(self) -> CodeType:
        method: Any = inspect.unwrap(getattr(type(self.module), self.attribute))
        code: CodeType = method.__code__
        return code


class StackForward(Likeness):
    """Stands in for the stack's ``forward``: every call is a fresh :class:`Run`.

    Attributes:
        owner: the attachment that this is a part of, set by ``attach``.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.module, self.attribute = binding.stack.module, binding.stack.entry
        self.owner: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        stack = self.binding.stack
        if args and args[0] is stack.module:  # bound as a method by another library; see StandIn
            args = args[1:]
        return stack.forward(Run(self.binding), *args, **kwargs)


class StandIn(Likeness):
    """What attach puts in a method's place on one module.

    A plain object on the instance gets no ``self``. Libraries that wrap ``model.forward`` (accelerate's mixed
    precision) bind what they find as a method all the same, so a leading module is left out.

    Args:
        module: whose method it stands for.
        attribute: the method's name.
        function: what is called.
    """

    def __init__(self, module: nn.Module, attribute: str, function: Callable[..., Any]) -> None:
        self.module, self.attribute, self.function = module, attribute, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self.module:
            args = args[1:]
        return self.function(*args, **kwargs)


class Replicate:
    """``_replicate_for_data_parallel`` of a module with stand-ins: they refer to the original, so a replica refuses.

    Args:
        module: the original.
        attributes: which of its methods are replaced.
    """

    def __init__(self, module: nn.Module, attributes: Sequence[str]) -> None:
        self.module, self.attributes = module, tuple(attributes)

    def __call__(self) -> nn.Module:
        kind: Any = type(self.module)
        replica: nn.Module = kind._replicate_for_data_parallel(self.module)
        for attribute in self.attributes:
            vars(replica)[attribute] = refuse_replica
        vars(replica).pop("_replicate_for_data_parallel", None)
        return replica


def refuse_script(*args: Any, **kwargs: Any) -> Any:
    """What ``torch.jit.script`` meets in a module of an attached model."""
    raise UnsupportedCallError(
        "torch.jit.script compiles a model's source, which has no reducer in it; use torch.export.export(model, "
        "inputs) or torch.jit.trace(model, inputs) while a reducer is attached, or detach() first"
    )


def refuse_replica(*args: Any, **kwargs: Any) -> Any:
    """What a replica made by ``torch.nn.DataParallel`` does while a reducer is attached."""
    raise UnsupportedCallError(
        "torch.nn.DataParallel runs replicas of the model, but the reducer is attached to the original and would use "
        "its weights; run one process per device with DistributedDataParallel (torchrun), show one device only "
        "(CUDA_VISIBLE_DEVICES), or detach() first"
    )
