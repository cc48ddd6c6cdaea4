"""Run methods on the outputs of their published code: ``python tests/plugins/check_reference.py FOLDER``.

Every NAME.json with a NAME.safetensors beside it is a case. What runs it is found by the file's stem: a check of that
name, or the longest one that the stem begins with (``fopru_logits_b`` is a case of ``fopru_logits``). Differences are
printed; the exit code is 1 if there is any, a case that no check is for, or an expected output that none looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import reference_checks  # noqa: E402
from reference_checks.case import Case, Check  # noqa: E402


def checks() -> dict[str, Check]:
    """Every check by stem, from the modules beside this file."""
    found: dict[str, Check] = {}
    for module in iter_modules(reference_checks.__path__):
        own = getattr(import_module(f"reference_checks.{module.name}"), "CHECKS", {})
        both = set(own) & set(found)
        if both:
            raise SystemExit(f"{module.name}: another module checks {', '.join(sorted(both))} already")
        found.update(own)
    return found


def check_for(stem: str, table: Mapping[str, Check]) -> Check | None:
    """What checks the cases of a stem; None for nothing."""
    fits = [name for name in table if stem.startswith(name)]
    return table[max(fits, key=len)] if fits else None


def differences_of(path: Path, table: Mapping[str, Check]) -> list[str]:
    """How a case differs, in text, one difference a line; also that it could not be run."""
    check = check_for(path.stem, table)
    if check is None:
        return [f"no check for this stem; there are {', '.join(sorted(table))}"]
    try:
        case = Case.load(path)
        return [*check(case), *(f"nothing compares {name}" for name in case.not_compared())]
    except Exception as error:  # a file in another format must not hide the cases that follow
        return [f"could not be run: {type(error).__name__}: {error}"]


def main(arguments: list[str] | None = None) -> int:
    """Check a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with NAME.json and NAME.safetensors")
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME", help="only the cases of these stems")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder; give one with NAME.json and NAME.safetensors")
    cases = sorted(path for path in options.folder.glob("*.json") if path.with_suffix(".safetensors").exists())
    if options.only is not None:
        cases = [path for path in cases if path.stem in options.only]
    if not cases:
        parser.error(f"no NAME.json with a NAME.safetensors in {options.folder}")
    table, failed = checks(), 0
    for path in cases:
        differences = differences_of(path, table)
        failed += bool(differences)
        print(f"{path.stem}: {'differs' if differences else 'equal'}")
        for line in differences:
            print(f"  {line}")
    print(f"{len(cases) - failed} of {len(cases)} cases equal")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
