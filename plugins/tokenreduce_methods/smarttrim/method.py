"""The options of SmartTrim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import Backbone, BaseReducer, check_ratio

from .trimmers import Trimmers

LEAST = 0.01


class SmartTrim(BaseReducer):
    """In every layer small trimmers, learned with the model, say which tokens and heads a sample still needs.

    A trimmer for each modality and layer acts before the layer. It scores a token by what it is (a narrow MLP) and by
    how it fits the class token of the other modality (a scaled product); of its own where the other has none. In
    training tokens are dropped by hard draws that pass a gradient (a ``Gate``), and a token once dropped stays dropped.
    In evaluation those whose logit is negative go, so that samples keep different numbers of tokens. Protected tokens
    stay, and at least one other token of each stream. A head trimmer for each attention scores its heads by the class
    tokens of all modalities; heads are masked before the output projection.

    A loss, ``handle.last.losses["tokens"]``, holds the share of each modality's tokens that is kept, the mean over
    layers and over the batch, to its target; ``["heads"]`` does the same for heads. The recipe, which ``tokenreduce
    finetune`` follows, has the model itself with all tokens as its teacher, and lets the target fall linearly.

    Source: Wang et al., SmartTrim, LREC-COLING 2024, arXiv 2305.15033. There is no public code, and layers, widths,
    losses and weights of this implementation are its own where the abstract does not name them.

    Args:
        keep: share of the tokens, protected ones and padding not counted, that is to stay: the mean over the layers
            where it acts.
        text_keep: the same for text tokens, None for ``keep``. 1 leaves a modality whole, and makes no trimmers.
        head_keep: share of the heads that is to stay, None to leave them alone.
        tau: temperature of the draws.
        weight: of the losses.
        odds: in evaluation, how many times as large the odds of going count: 0 keeps all, 1 is as trained.
    """

    keep: float = 0.5
    text_keep: Any = None
    head_keep: Any = None
    tau: float = 1.0
    weight: float = 20.0
    odds: float = 1.0

    position = "before_block"
    streams = ("text", "image")
    ragged = True
    by_sample = True
    notes = (
        "which tokens go is learned: new trimmers keep all of them; train them with the model, or load trained ones",
    )
    recipe: ClassVar[Mapping[str, Any]] = {
        "same_weights": True,
        "full": 1.0,
        "reduction_warmup": 0.5,
        "reduction_shape": "linear",
        "last": True,
        "lr": 5e-5,  # small steps for a trained model, large ones for new trimmers
        "reducer_lr": 20.0,
    }

    def __post_init__(self) -> None:
        check_ratio("keep", self.keep, open_low=True)
        for name in ("text_keep", "head_keep"):
            if getattr(self, name) is not None:
                check_ratio(name, getattr(self, name), open_low=True)
        for name, low in (("tau", 1e-6), ("weight", 0.0), ("odds", 0.0)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < low:
                raise OptionError(f"{name} must be a {'positive' if low else 'non-negative'} number, got {value!r}")
        super().__post_init__()

    @property
    def masks_heads(self) -> bool:
        return self.head_keep is not None

    def target(self, stream: str) -> float:
        """The share of a stream's tokens that is to stay."""
        return self.text_keep if stream == "text" and self.text_keep is not None else self.keep

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def scaled(self, factor: float, sites: int) -> SmartTrim:
        """Targets of training that remove ``factor`` times as much; in evaluation the odds of going as many times."""
        shares = {name: getattr(self, name) for name in ("keep", "text_keep", "head_keep")}
        given = {name: max(1 - (1 - share) * factor, LEAST) for name, share in shares.items() if share is not None}
        return self if factor == 1 else replace(self, **given, odds=self.odds * factor)

    def bind(self, backbone: Backbone) -> Trimmers:
        if not backbone.widths:
            raise UnfitReducerError(
                f"SmartTrim needs the widths of the streams of {backbone.model}, which are known only once it is "
                "attached; use tokenreduce.attach, or name them in the Backbone (widths={'image': 768})"
            )
        return Trimmers(self, backbone)
