"""Every error that tokenreduce raises on purpose.

    TokenReduceError
    ├── UnknownNameError (KeyError)            no reducer, adapter or task of that name
    ├── OptionError (ValueError)               an option has a value outside its range
    │   └── UnknownOptionError (TypeError)     no option of that name
    ├── LayerError (IndexError)                a layer outside the stack
    ├── UnsupportedModelError (TypeError)      no adapter takes the model, or its view is not exact
    ├── UnfitReducerError (ValueError)         the backbone cannot feed the reducer
    ├── AlreadyAttachedError (RuntimeError)    attach over an attachment
    ├── UnsupportedCallError (RuntimeError)    a call that a reduced model cannot answer
    ├── NoForwardError (RuntimeError)          asked for a result before any forward pass
    └── PluginError (ImportError)              a plugin that is broken, missing a library, or clashes

Each also derives from the builtin that people already catch. Every message says what was expected, what
came, and what to type next.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "AlreadyAttachedError",
    "LayerError",
    "NoForwardError",
    "OptionError",
    "PluginError",
    "TokenReduceError",
    "UnfitReducerError",
    "UnknownNameError",
    "UnknownOptionError",
    "UnsupportedCallError",
    "UnsupportedModelError",
]


class TokenReduceError(Exception):
    """Base of every error of this package."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would print the repr


class UnknownNameError(TokenReduceError, KeyError):
    """No reducer, adapter or task has this name."""


class OptionError(TokenReduceError, ValueError):
    """An option has a value outside its range, or of the wrong type."""


class UnknownOptionError(OptionError, TypeError):
    """The reducer has no option of this name."""


class LayerError(TokenReduceError, IndexError):
    """A layer outside the stack."""


class UnsupportedModelError(TokenReduceError, TypeError):
    """No adapter takes the model, or the adapter's view of a block does not agree with the block."""


class UnfitReducerError(TokenReduceError, ValueError):
    """The backbone does not provide what the reducer needs."""


class AlreadyAttachedError(TokenReduceError, RuntimeError):
    """The model, or a part of it, already has a reducer."""


class UnsupportedCallError(TokenReduceError, RuntimeError):
    """A call that a model with fewer tokens cannot answer."""


class NoForwardError(TokenReduceError, RuntimeError):
    """A report or trace was asked for before any forward pass, or was not recorded."""


class PluginError(TokenReduceError, ImportError):
    """A plugin is broken, lacks a library, or clashes with another."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for close names, and the list of valid ones."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Valid: {', '.join(names) or '(none)'}."


def reason_of(error: BaseException) -> str:
    """What went wrong: the message of an error of this package, name and message of any other."""
    try:
        return str(error) if isinstance(error, TokenReduceError) else f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # an error of a plugin may fail at saying what it is
        return type(error).__name__


@contextmanager
def guard(tell: Callable[[str], object]) -> Iterator[None]:
    """A context for code of a plugin: what it raises is told in words and goes no further.

    That includes what is no ``Exception``, such as SystemExit or pytest's Skipped; only KeyboardInterrupt, which is the
    user's, is passed on.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        tell(reason_of(error))
