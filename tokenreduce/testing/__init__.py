"""The kit that tests reducers and adapters: subclass a class, name what is yours, run pytest.

    from tokenreduce.testing import ReducerConformance

    class TestMine(ReducerConformance):
        reducer = "mine"

Needs pytest and hypothesis: ``pip install "tokenreduce[testing]"``.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tokenreduce.testing.adapters", "tokenreduce.testing.stream_laws", "tokenreduce.testing.model_laws"
)

from .adapters import AdapterConformance  # noqa: E402
from .comparison import TOLERANCES, assert_close, tensors  # noqa: E402
from .fixtures import fresh_registry  # noqa: E402
from .models import KINDS, models  # noqa: E402
from .reducers import ReducerConformance  # noqa: E402
from .snapshot import snapshot  # noqa: E402
from .synthetic import site, stream, synthetic_backbone  # noqa: E402

__all__ = [
    "KINDS",
    "TOLERANCES",
    "AdapterConformance",
    "ReducerConformance",
    "assert_close",
    "fresh_registry",
    "models",
    "site",
    "snapshot",
    "stream",
    "synthetic_backbone",
    "tensors",
]
