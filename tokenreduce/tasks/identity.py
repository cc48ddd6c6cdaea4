"""What a value's behaviour depends on, as a hash: its contents, and the code of what it can call.

Equal hashes mean equal behaviour, in another process too. Where that cannot be told (an open file, a generator), the
walk goes on and says so.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import pathlib
import types
import weakref
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import code_identity
from .packages import top_level

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
TOLD_BY_REPR = (range, slice, torch.dtype, torch.device, torch.layout, torch.memory_format, pathlib.PurePath)
OF_TORCH = frozenset(vars(nn.Module()))  # what torch itself keeps on a module
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
UNCOUNTED = ("training", "pretrained_cfg", "default_cfg", "name_or_path")  # of modules: not what they compute


class Identity:
    """One walk over values.

    Attributes:
        packages: top-level packages whose code was met, for :func:`tokenreduce.tasks.packages.source_fingerprints`.
        unknown: what could not be told, in words.
        reads: functions that read a file, the environment or code of their own as they run, in words.

    Args:
        code: whether the code of functions and classes counts, or their names alone.
    """

    def __init__(self, code: bool = True) -> None:
        self.code = code
        self.packages: set[str] = set()
        self.unknown: list[str] = []
        self.reads: list[str] = []
        self._done: dict[int, str] = {}
        self._open: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is another's once its object is gone

    def of(self, value: Any) -> str:
        """The hash of a value."""
        if type(value) in PLAIN:
            return digest(type(value).__name__, repr(value))
        key = id(value)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            return digest("around", str(len(self._open) - self._open[key]))
        self._open[key] = len(self._open)
        self._alive.append(value)
        try:
            found = self._of(value)
        except RecursionError:
            found = self.untold(value, "nested too deep")
        except Exception as error:  # other people's objects may raise anything when they are looked at
            found = self.untold(value, f"{type(error).__name__}: {error}")
        finally:
            del self._open[key]
        self._done[key] = found
        return found

    def all(self, *values: Any) -> str:
        """One hash of several values."""
        return digest("all", *map(self.of, values))

    def untold(self, value: Any, why: str = "") -> str:
        """Note that nobody can tell what a value does; the hash of its type."""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        self.unknown.append(f"a {kind}" + (f" ({why})" if why else ""))
        return digest("untold", kind)

    def _of(self, value: Any) -> str:
        kind = type(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return tensor_digest(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asarray(value), kind.__name__)
        if isinstance(value, TOLD_BY_REPR) or (isinstance(value, Enum) and not self.code):
            return digest(kind.__name__, repr(value))
        if isinstance(value, (bytearray, memoryview)):
            return digest(kind.__name__, bytes(value))
        if kind in (list, tuple, torch.Size, deque):
            return digest(kind.__name__, *map(self.of, value))
        if kind in (set, frozenset):
            return digest(kind.__name__, *sorted(map(self.of, value)))
        if kind in (dict, types.MappingProxyType):
            return digest("dict", *(part for item in value.items() for part in map(self.of, item)))
        if isinstance(value, types.ModuleType):
            self.packages.add(top_level(value.__name__))
            return digest("module", value.__name__)
        if isinstance(value, functools.partial):
            return digest("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, (weakref.ref, staticmethod, classmethod, property, functools.cached_property)):
            return self._wrapper(value)
        if isinstance(value, (type, *CALLABLES)):
            return code_identity.of_callable(self, value)
        if callable(getattr(value, "to_dict", None)):
            return digest("config", class_name(value), self.of(plain_config(value)))
        return self._instance(value)

    def module(self, module: nn.Module, tensors: bool = True) -> str:
        """The hash of a model: classes, attributes, hooks, and parameters and buffers if they are to count."""
        parts: list[str] = []
        for name, part in module.named_modules():
            own = {key: value for key, value in vars(part).items() if key not in OF_TORCH and key not in UNCOUNTED}
            hooks = [list(vars(part).get(kind, {}).values()) for kind in HOOKS]
            parts += [self.of(name), self.of(type(part)), self.of(part.extra_repr())]
            parts += [self.of(key) + self.of(own[key]) for key in sorted(own)]
            parts += [self.of(hooks)] if any(hooks) else []
        if tensors:
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                parts += [self.of(name), tensor_digest(tensor)]
                if tensor.is_meta:  # offloaded: its numbers are elsewhere
                    self.unknown.append(f"the weight {name}, which is not in memory")
        return digest("nn.Module", *parts)

    def _wrapper(self, value: Any) -> str:
        if isinstance(value, weakref.ref):
            return digest("ref", self.of(value()))
        names = ("fget", "fset", "fdel") if isinstance(value, property) else ("__func__", "func")
        return digest(type(value).__name__, *(self.of(getattr(value, name, None)) for name in names))

    def _array(self, value: np.ndarray[Any, Any], kind: str) -> str:
        inside = self.of(value.tolist()) if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return digest(kind, str(value.dtype), str(value.shape), inside)

    def _instance(self, value: Any) -> str:
        """An object by its class and what pickle would take along."""
        reduce = copyreg.dispatch_table.get(type(value))
        made = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        inner = getattr(value, "__wrapped__", None)  # of what decorators such as functools.cache make
        if isinstance(made, str):  # a name in its module, so what it does is not in what is taken along
            package = top_level(getattr(value, "__module__", None))
            if inner is None and package == "__main__":
                raise TypeError("it is known by its name alone")
            self.packages.add(package)
            return digest("global", class_name(value), made, self.of(inner))
        parts = [list(part) if index in (3, 4) and part is not None else part for index, part in enumerate(made)]
        return digest("object", self.of(type(value)), *map(self.of, parts))


CALLABLES = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.CodeType,
)


def digest(*parts: str | bytes) -> str:
    """A hash of parts, each apart from the next."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        sha.update(len(raw).to_bytes(8, "little") + raw)
    return sha.hexdigest()[:32]


def tensor_digest(value: Tensor) -> str:
    """A hash of a tensor's dtype, shape and numbers, wherever they are; of one without numbers, of the first two."""
    about = (str(value.dtype), str(tuple(value.shape)), str(value.layout))
    if value.is_meta:
        return digest("meta", *about)
    plain = value.detach().cpu()
    if plain.is_quantized or plain.layout is not torch.strided:
        dense = plain.dequantize() if plain.is_quantized else plain.to_dense()
        return digest("tensor", *about, tensor_digest(dense))
    return digest("tensor", *about, plain.resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def plain_config(config: Any) -> Mapping[str, Any]:
    """A model's configuration without what changes with where it was read from and by which version."""
    found = config.to_dict()
    return {k: v for k, v in found.items() if not str(k).startswith("_") and k != "transformers_version"}


def class_name(value: Any) -> str:
    """Module and name of an object's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
