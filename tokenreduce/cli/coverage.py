"""``tokenreduce coverage``: which reducer runs on which backbone, as Markdown."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("coverage", help="try every reducer on every backbone; prints Markdown")
    parser.add_argument("adapter", nargs="?", help="only this adapter's models")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Try all pairs and print the tables."""
    from ..lab.coverage import coverage
    from ..report.coverage_tables import markdown

    print(markdown(list(coverage(adapter=arguments.adapter))), end="")
    return 0
