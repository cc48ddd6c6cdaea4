"""``python -m tokenreduce_evals --model tokenreduce ...``: lm-eval's command line with this model registered."""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

from . import lm_eval as lm_eval

if __name__ == "__main__":
    cli_evaluate()
