"""The contract for model families: which models an adapter takes, their stacks, and a view of each block.

An adapter knows one model family and no method. It writes three small things:

    class MyView(BlockView):            # one block's parts, residuals included
        def project(self, x): ...       # tokens -> query, key, value
        def attend(self, x, context, projected): ...
        def mlp(self, x): ...

    class MyStack(Stack):               # one tower of blocks
        def view(self, block): ...
        def forward(self, run, x): ...  # what the tower's forward does, blocks run by ``run``

    class MyAdapter(Adapter):
        def accepts(self, model): ...
        def stacks(self, model): ...

Where text and image stand in two sequences, a block updates its own and attends to the other, its memory:

    class CrossView(BlockView):         # ... and two more parts
        def project_memory(self, x, memory): ...
        def attend_memory(self, x, context, projected): ...

    class CrossStack(Stack):
        sequences = (("text",), ("image",))
        levels = ((0, 1), (2, 3), ...)  # which blocks make up a layer, as users count layers
        def role(self, index): return Role("text", "image") if index % 2 == 0 else Role("image", "text")
        def forward(self, run, text, image):
            run.start(text, {"text": ...}, real); run.start(image, {"image": ...})
            text, image = run.block(0, text, image)     # either may come back shorter
            image, text = run.block(1, image, text)
            ...
            return run.finish(text, image)

A language model that is given images keeps its library's layers whole; tokens go between them (:mod:`.causal`):

    class MyModel(LanguageModel):       # runs the library's forward with ``run.layer(...)`` around each layer
        def forward(self, run, *args, **kwargs): ...

    class MyAdapter(Adapter):
        def stacks(self, model):
            language = MyModel(model)
            return {"handover": HandOver(language), "language": Language(language)}

``attach`` proves each view against the block it stands for, so a view that drops a part is refused.

Axes: B batch, N tokens, M memory tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from .._torch import evaluating
from .adapter import Adapter, Example
from .block import BlockView, Projected, Role, current
from .causal import (
    CausalPass,
    Encoded,
    HandOver,
    Language,
    LanguageModel,
    LayerCall,
    Prompt,
    Seen,
    last_real,
    pick,
    pick_all,
)
from .dispatch import beneath, device_of, is_hooked, is_replaced, loaded, moved
from .holders import foreign_holders
from .kv_cache import Kept
from .layout import Layout, Segment
from .pass_ import Pass
from .patch_grid import Size, check_size, conv_patch, pair, resize_grid
from .positions import Positions
from .stack import Output, Stack

__all__ = [
    "Adapter",
    "BlockView",
    "CausalPass",
    "Encoded",
    "Example",
    "HandOver",
    "Kept",
    "Language",
    "LanguageModel",
    "LayerCall",
    "Layout",
    "Output",
    "Pass",
    "Positions",
    "Projected",
    "Prompt",
    "Role",
    "Seen",
    "Segment",
    "Size",
    "Stack",
    "beneath",
    "check_size",
    "conv_patch",
    "current",
    "device_of",
    "evaluating",
    "foreign_holders",
    "is_hooked",
    "is_replaced",
    "last_real",
    "loaded",
    "moved",
    "pair",
    "pick",
    "pick_all",
    "resize_grid",
]
