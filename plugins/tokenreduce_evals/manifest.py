"""What lmms-eval reads from the entry point ``lmms_eval.models``."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest("tokenreduce_hf", chat_class_path="tokenreduce_evals.lmms_eval.TokenReduceHF")
