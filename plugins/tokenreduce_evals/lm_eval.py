"""A model of lm-eval: ``simple_evaluate(model="tokenreduce", model_args={"pretrained": ..., "reducer": "tome"})``.

lm-eval (0.4.13) has no entry points for models: importing this module registers the name, and
``python -m tokenreduce_evals`` is lm-eval's own command line with the name registered.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.hf_vlms import HFMultimodalLM

from .model_args import attach_reducer, split
from .tokens import TokenCount


@register_model("tokenreduce")
class TokenReduceLM(HFMultimodalLM):
    """lm-eval's ``hf-multimodal`` with a reducer attached.

    Args:
        pretrained: a hub id, a folder, or a model of transformers.
        reducer: a name, a folder that ``handle.save`` wrote, or a JSON file with a reducer per stack.
        trust: import classes that are named by their module.
        **kwargs: options of the reducer, ``layers`` (``1+5+8``), ``unit`` and ``positions`` among them; all others are
            those of ``hf-multimodal``.
    """

    def __init__(self, pretrained: Any, reducer: Any = "none", trust: bool = False, **kwargs: Any) -> None:
        options, others = split(kwargs, reducer, trust)
        super().__init__(pretrained, **others)
        self.handle = attach_reducer(self.model, reducer, options, trust)
        self.count = TokenCount(self.handle)

    def _model_multimodal_generate(self, inputs: Any, max_length: int, stop: Any, **kwargs: Any) -> Any:
        output = super()._model_multimodal_generate(inputs, max_length, stop, **kwargs)
        self.count.add(len(inputs["input_ids"]))
        return output

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside the results: the attachment and the image tokens of a prompt, too."""
        said = {"attached": self.handle.config, "notes": self.handle.notes, **self.count.summary()}
        return {**super().get_model_info(), "tokenreduce": said}
