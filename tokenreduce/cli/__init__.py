"""The command line: ``tokenreduce list | info | ablate | compare | show | finetune | coverage | new``."""

from __future__ import annotations

import argparse
import sys

from .._version import __version__
from ..errors import TokenReduceError


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 something failed, 2 wrong use)."""
    parser = argparse.ArgumentParser(
        prog="tokenreduce", description="Token reduction for transformers that look at images."
    )
    parser.add_argument("--version", action="version", version=f"tokenreduce {__version__}")
    names = "{list,info,ablate,compare,show,finetune,coverage,new}"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    from . import ablate, compare, coverage, finetune, info, listing, new, show

    for command in (listing, info, ablate, compare, show, finetune, coverage, new):
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except TokenReduceError as error:
        print(f"tokenreduce: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tokenreduce: stopped", file=sys.stderr)
        return 130
