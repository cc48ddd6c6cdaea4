"""Files that people write or are given: read, and checked field by field. Imports no torch, pydantic when it checks."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from .errors import OptionError, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: no text, though JSON can hold it

WANTED = {  # kind of pydantic's error -> what was expected
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table of entries",
    "dataclass_type": "a table of entries",
    "dataclass_exact_type": "a table of entries",
    "none_required": "null",
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of at most {max_length}",
    "missing": "given",
    "missing_argument": "given",
}


def read_text(path: str | Path, hint: str) -> str:
    """The text of a file, in UTF-8 with or without a byte order mark.

    Raises:
        OptionError: it cannot be read; ``hint`` says what to type.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not text in UTF-8 ({error}); {hint}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise OptionError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {hint}") from error


def read_document(path: str | Path, hint: str) -> Any:
    """What a JSON file, or one that is called ``.toml``, holds.

    Raises:
        OptionError: it cannot be read, or is not valid.
    """
    text = read_text(path, hint)
    toml = Path(path).suffix.lower() == ".toml"
    try:
        return tomllib.loads(text) if toml else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not valid {'TOML' if toml else 'JSON'}: {error}; {hint}") from error


def check(kind: type[T], given: dict[str, Any], where: str = "") -> T:
    """Python's own values as the fields of a dataclass, strictly: nothing is turned into anything else.

    Args:
        where: begins the message, "" for none.

    Raises:
        OptionError: an entry that is unknown, missing, of another type or out of range; the message names it.
    """
    known: Any = kind
    with _saying(known, where, {}):
        _fields(known).model_validate(given)
        return kind(**given)


def check_document(kind: type[T], given: Any, where: str = "", forms: Mapping[str, str] | None = None) -> T:
    """The same of what a file held, in which tuples are lists.

    Args:
        forms: what fields hold, in words, for the message.

    Raises:
        OptionError: as :func:`check`, or it holds what JSON has no form for.
    """
    known: Any = kind
    with _saying(known, where, forms or {}):
        text = HALF.sub("\ufffd", json.dumps(given, ensure_ascii=False))
        found: T = _adapter(known).validate_json(text.encode(), strict=True)
        return found


@contextmanager
def _saying(kind: Any, where: str, forms: Mapping[str, str]) -> Iterator[None]:
    """Errors in words."""
    from pydantic import ValidationError

    begin = f"{where}: " if where else ""
    try:
        yield
    except ValidationError as error:
        raise OptionError(f"{begin}{_words(kind, error, forms)}") from None
    except OptionError as error:  # of a check of several fields
        raise OptionError(f"{begin}{error}") from error
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise OptionError(f"{begin}holds a value that is no JSON ({error})") from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if dataclasses.is_dataclass(kind) and not hasattr(kind, "__pydantic_config__"):
        setattr(kind, "__pydantic_config__", {"extra": "forbid"})  # noqa: B010  # of those inside as well
    return TypeAdapter(kind)


@cache
def _fields(kind: Any) -> Any:
    """The fields of a dataclass as a model of pydantic, which takes a mapping in strict mode too."""
    from pydantic import ConfigDict, create_model

    hints = get_type_hints(kind, include_extras=True)
    wanted: Any = {
        entry.name: (hints[entry.name], ... if _is_required(entry) else None) for entry in dataclasses.fields(kind)
    }
    config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(kind.__name__, __config__=config, **wanted)


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _words(kind: Any, error: ValidationError, forms: Mapping[str, str]) -> str:
    """The first thing that is wrong, and how many others are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    place = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
    path, got = path_of(place), short(first["input"])
    if place and place[0] in forms:
        return f"expected {place[0]!r} to be {forms[str(place[0])]}, got {got}"
    more = f" ({len(errors) - 1} more like this)" if len(errors) > 1 else ""
    if first["type"] == "value_error":
        return f"{path}: {first['ctx']['error']}" if path else str(first["ctx"]["error"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        inside = path_of(place[:-1])
        valid = [entry.name for entry in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
        known = nearest(str(place[-1]), valid) if not inside and valid else ""
        return f"{inside + ' has' if inside else 'there is'} no entry {place[-1]!r}.{known}{more}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{path} is missing{more}"
    form = WANTED.get(first["type"], first["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
    return f"{path or 'it'} must be {form.format(**first.get('ctx', {}))}, got {got}{more}"


def path_of(place: list[str | int]) -> str:
    """``rows[3].macs``."""
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def short(value: Any, most: int = 80) -> str:
    """A value in a message, on one line and cut where it is long."""
    try:
        text = json.dumps(value) if isinstance(value, (list, dict)) else repr(value)
    except (TypeError, ValueError, RecursionError):
        text = f"{type(value).__name__} object"
    return text if len(text) <= most else f"{text[: most - 3]}..."
