"""Standard output and error as a shell has them: pipes that close, full disks, other locales, hostile text."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m tokenreduce"


def shell(line, **options):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=300, **options
    )


@pytest.mark.parametrize("arguments", ["list --json", "list", "info tome", "info pumer --markdown"])
def test_a_reader_may_stop(arguments):
    done = shell(f"{COMMAND} {arguments} | head -1")
    assert done.stderr == "" and done.stdout and done.returncode == 0
    done = shell(f"{COMMAND} {arguments} | true")
    assert done.stderr == "" and done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("arguments", ["list", "list --json", "info tome"])
def test_a_full_disk_is_an_error_in_words(arguments):
    done = shell(f"{COMMAND} {arguments} > /dev/full")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert "the output cannot be written (No space left on device)" in done.stderr


def test_any_locale_will_do():
    done = shell(f"PYTHONIOENCODING=ascii LC_ALL=C {COMMAND} info pumer")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert shell(f"{COMMAND} list >&-").returncode in (0, 1)  # no standard output at all


def test_names_command_no_terminal():
    done = shell(f"{COMMAND} info $'\\x1b[31mred'")
    assert done.returncode == 2 and "\x1b" not in done.stderr and "red" in done.stderr
