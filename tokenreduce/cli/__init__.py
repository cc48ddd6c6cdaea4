"""The command line: ``tokenreduce list | info | ablate | compare | reproduce | show ...``."""

from __future__ import annotations

import argparse

from .._version import __version__
from ..errors import TokenReduceError
from .streams import complain, finish, prepare_streams


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 something failed, 2 wrong use)."""
    parser = argparse.ArgumentParser(
        prog="tokenreduce", description="Token reduction for transformers that look at images."
    )
    parser.add_argument("--version", action="version", version=f"tokenreduce {__version__}")
    names = "{list,info,ablate,compare,reproduce,show,finetune,export,coverage,new}"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    from . import ablate, compare, coverage, export, finetune, info, listing, new, reproduce, show

    for command in (listing, info, ablate, compare, reproduce, show, finetune, export, coverage, new):
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        prepare_streams(plugins=arguments.command not in ("compare", "new"))
        code: int = arguments.run(arguments)
        return finish(code)
    except TokenReduceError as error:
        complain(str(error))
        return finish(2)
    except KeyboardInterrupt:
        complain("stopped")
        return finish(130)
    except BrokenPipeError:  # whoever was reading has seen enough
        return finish(0)
    except SystemExit as error:  # as rich ends where the pipe is broken
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return finish(0)
    except OSError as error:
        if error.filename is not None:
            complain(f"{error.filename}: {error.strerror or error}")
            return finish(2)
        complain(f"the output cannot be written ({error.strerror or error})")  # as to a disk that is full
        return finish(1)
