"""Tiny language models with images."""

import pytest

from . import tinies


@pytest.fixture(params=list(tinies.FIRST))
def family(request):
    """The name of a family."""
    return request.param


@pytest.fixture
def tiny(family):
    """A tiny model of it."""
    return tinies.ALL[family]()
