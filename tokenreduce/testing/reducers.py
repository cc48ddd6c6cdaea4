"""The class to subclass for a reducer."""

from __future__ import annotations

from .model_laws import ModelLaws
from .stream_laws import StreamLaws


class ReducerConformance(StreamLaws, ModelLaws):
    """Everything that a reducer must hold to; subclass it as ``Test...`` and set :attr:`reducer`.

        class TestMine(ReducerConformance):
            reducer = "mine"
            settings = [{"keep": 0.6}, {"remove": 3}]

    On streams made by hand, with tiny, odd, padded and weighed ones found by hypothesis, and on one tiny model of each
    kind (:data:`tokenreduce.testing.KINDS`) whose library is installed. A backbone that refuses the reducer with
    ``UnfitReducerError`` is skipped with its reason; at least one has to take it.

    Attributes:
        reducer: the registered name, ``"module:attribute"``, or the class.
        settings: sets of options; every check runs with each of them. The defaults if left out.
        zero: options under which nothing is removed; None for what ``scaled(0, sites)`` gives.
        backbones: names of kinds or of models (:func:`tokenreduce.testing.models`); every kind if left out.
    """
