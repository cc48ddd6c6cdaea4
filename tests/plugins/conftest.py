"""The reference data, and what the tests of the methods watch."""

import itertools
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tokenreduce import testing

from . import encoder_oracle as encoder_oracle_module

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def encoder_oracle():
    """The slow re-implementations of methods for encoders in encoder_oracle.py."""
    return encoder_oracle_module


@pytest.fixture(scope="session")
def reference():
    """Load the reference data ``name``: (configuration, weights, inputs and outputs)."""

    def load(name):
        config = json.loads((DATA / f"{name}.json").read_text())
        return config, load_file(DATA / f"{name}.weights.safetensors"), load_file(DATA / f"{name}.io.safetensors")

    return load


@pytest.fixture
def shapes():
    """Hook modules and list the token counts of what they return, in order of the calls."""
    handles = []

    def watch(modules):
        seen = []

        def hook(module, args, output):
            seen.append((output[0] if isinstance(output, tuple) else output).shape[1])

        handles.extend(module.register_forward_hook(hook) for module in modules)
        return seen

    yield watch
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="session")
def flow():
    """Token counts of one stream through ``handle.last.sites``: the first count, then the count after each site."""

    def of(handle, stream="image"):
        rows = [row for row in handle.last.sites if row.stream == stream]
        for before, after in itertools.pairwise(rows):
            assert before.tokens_out == after.tokens_in
        return [rows[0].tokens_in, *(row.tokens_out for row in rows)]

    return of


@pytest.fixture(scope="session")
def stream():
    """A stream made by hand, to try a method on without a model."""
    return testing.stream


@pytest.fixture(scope="session")
def site():
    """A site made by hand."""
    return testing.site
