"""What functions and classes do, as a hash: their code, what they close over, and the globals that they name."""

from __future__ import annotations

import dis
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .packages import OWN, is_library, top_level

LOADS = ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
OF = ("LOAD_ATTR", "LOAD_METHOD")
STORES = ("STORE_DEREF", "STORE_GLOBAL")
RECORDS = ("append", "extend", "appendleft")  # what a list that only writes calls down is asked for
READS = frozenset(("open", "exec", "eval", "__import__", "globals", "input"))  # of Python's own functions
READS_OF = frozenset(("import_module", "environ", "getenv", "read_text", "read_bytes"))  # of something's attributes
READS_BY = {**dict.fromkeys(LOADS, READS | READS_OF), **dict.fromkeys(OF, READS_OF)}
UNCOUNTED = frozenset(  # of a class: bookkeeping of Python's
    {"__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__annotate__"}
    | {"__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "_abc_impl"}
    | {"__abstractmethods__", "__parameters__", "__dataclass_fields__", "__dataclass_params__"}
)


class Walk(Protocol):
    """As :class:`tokenreduce.tasks.identity.Identity` has it."""

    code: bool
    packages: set[str]
    reads: list[str]

    def of(self, value: Any) -> str: ...


def of_callable(walk: Walk, value: Any) -> str:
    """The hash of a function, method, class, descriptor or code object."""
    if isinstance(value, type):
        return _of_class(walk, value)
    if isinstance(value, types.FunctionType):
        return _of_function(walk, value)
    if isinstance(value, types.CodeType):
        return _of_code(walk, value)
    if isinstance(value, types.MethodType):
        return walk.of(("method", value.__func__, value.__self__))
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        walk.packages.add(top_level(getattr(value, "__module__", None) or "builtins"))
        owner = None
    return walk.of(("builtin", getattr(value, "__module__", None), getattr(value, "__qualname__", ""), owner))


def _of_function(walk: Walk, function: types.FunctionType) -> str:
    package, code = top_level(function.__module__), function.__code__
    walk.packages.add(package)
    written = written_names(code)
    cells = [
        _value(walk, name, _content(cell), written)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
    ]
    parts = [function.__qualname__, cells, function.__defaults__, function.__kwdefaults__, vars(function)]
    if not walk.code or package == OWN or is_library(package):
        return walk.of(("function", function.__module__, *parts))
    names = set(_names(code))
    reads = sorted(_reads(code) - {*function.__globals__})
    walk.reads += [f"{function.__qualname__} uses {name}" for name in reads]
    modules = {name: sys.modules[name] for name in sorted(_imports(code)) if name in sys.modules}
    walk.packages |= {top_level(name) for name in _imports(code)}
    known = [(name, function.__globals__[name]) for name in sorted(names) if name in function.__globals__]
    known += [(name, module) for name, module in modules.items() if name not in function.__globals__]
    named = [(name, _value(walk, name, value, written), _inside(value, names)) for name, value in known]
    return walk.of(("function", code, *parts, named))


def _of_class(walk: Walk, cls: type) -> str:
    package = top_level(cls.__module__)
    walk.packages.add(package)
    name = (cls.__module__, cls.__qualname__)
    if not walk.code or package == OWN or is_library(package):
        return walk.of(("class", name))
    own = {key: value for key, value in vars(cls).items() if key not in UNCOUNTED}
    return walk.of(("class", name, type(cls), cls.__bases__, [(key, own[key]) for key in sorted(own)]))


def _of_code(walk: Walk, code: types.CodeType) -> str:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_freevars, code.co_cellvars)
    return walk.of(("code", code.co_code, code.co_consts, names, counts, getattr(code, "co_exceptiontable", b"")))


def _value(walk: Walk, name: str, value: Any, written: frozenset[str]) -> str:
    """The hash of what a name stands for; of a list or number that the function itself writes to, of its type."""
    if name in written and type(value) in (list, deque, int, float):
        return walk.of(("written", type(value)))
    return walk.of((name, value))


def _inside(value: Any, names: set[str]) -> Mapping[str, Any]:
    """Of a module that is being worked on: what is named of it."""
    if not isinstance(value, types.ModuleType) or is_library(top_level(value.__name__)):
        return {}
    return {name: vars(value)[name] for name in sorted(names) if name in vars(value)}


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _names(value)


def _reads(code: types.CodeType) -> set[str]:
    """Names by which a function gets at files, the environment, or code that is not its own."""
    found: set[str] = set()
    for step in dis.get_instructions(code):
        if isinstance(step.argval, types.CodeType):
            found |= _reads(step.argval)
        elif step.argval in (READS_BY.get(step.opname) or ()):
            found.add(step.argval)
    return found


def _imports(code: types.CodeType) -> set[str]:
    """Modules that a function imports as it runs, by their full names."""
    found = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME" and step.argval}
    return found.union(*(_imports(value) for value in code.co_consts if isinstance(value, types.CodeType)))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def written_names(code: types.CodeType) -> frozenset[str]:
    """Closed-over and global names that a function counts with or writes calls down in: ``calls.append(1)``.

    They change with every call, so what they hold at one moment says nothing of what the function computes.
    """
    found: set[str] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "PRECALL", "PUSH_NULL")]
    for index, step in enumerate(steps):
        if step.opname.endswith("DEREF") and step.argval not in code.co_freevars:
            continue  # a variable of its own, which functions inside close over
        if step.opname in STORES:
            found.add(step.argval)
        elif step.opname in LOADS and index + 1 < len(steps):
            after = steps[index + 1]
            if after.opname in OF and after.argval in RECORDS:
                found.add(step.argval)
            if _counts(steps[index + 1 : index + 4]):
                found.add(step.argval)
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            found |= written_names(value)
    return frozenset(found)


def _counts(steps: list[dis.Instruction]) -> bool:
    """Whether what follows the load of a list begins ``list[0] += 1``."""
    names = [step.opname for step in steps]
    if not names or not names[0].startswith("LOAD_"):
        return False
    return names[1:2] == ["DUP_TOP_TWO"] or names[1:3] == ["COPY", "COPY"]
