"""METER: the class of this package, or a model built from the published code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokenreduce_open_clip.vit import OpenClipStack
from tokenreduce_transformers.roberta import RobertaStack
from torch import nn
from transformers import RobertaConfig

from tokenreduce import Adapter, Example, Stack, UnsupportedModelError

from .config import MeterConfig
from .cross import CrossStack
from .heads import (
    MeterForImageAndTextRetrieval,
    MeterForImagesAndTextClassification,
    MeterForQuestionAnswering,
    MeterForVisualEntailment,
)
from .model import MeterModel
