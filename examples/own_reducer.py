"""A reducer of your own beside random drop and ToMe, each at the same share of multiply-adds.

python examples/own_reducer.py
python examples/own_reducer.py --model vilt-digits --share 0.6 --samples 200
"""

from __future__ import annotations

import argparse

import tokenreduce
from tokenreduce.tasks.loading import load_task


class StandsOut(tokenreduce.Reducer):
    """Keep the tokens whose keys are farthest from the mean key: what looks like everything else goes."""

    needs = frozenset({"keys"})

    def reduce(
        self, tokens: tokenreduce.methods.Tokens, signals: tokenreduce.methods.Signals, remove: int
    ) -> tokenreduce.methods.Reduction:
        distance = (signals.keys - signals.keys.mean(dim=1, keepdim=True)).norm(dim=-1)
        return tokens.keep_top(distance, remove=remove)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="clip-digits", help="a task, or a hub id or folder with --data (clip-digits)"
    )
    parser.add_argument("--data", help="data file for such a model: JSON lines of image, text, answer")
    parser.add_argument("--share", type=float, default=0.6, help="share of multiply-adds that is left (0.6)")
    parser.add_argument("--samples", type=int, default=100, help="samples to judge (100)")
    parser.add_argument("--batch", type=int, default=25, help="batch size (25)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (5)")
    args = parser.parse_args()

    task = load_task(tokenreduce.registry.default_registry(), args.model, args.data)
    result = tokenreduce.ablate(
        task.model,
        task.data(args.samples, args.batch),
        {"random": {}, "tome": {}, "mine": {"reducer": StandsOut()}},  # the baseline comes by itself
        metric=task.metric,
        match_macs=args.share,
        rounds=args.rounds,
        break_even=False,
    )
    tokenreduce.print_result(result, f"{task.name}, {args.share:.0%} of the multiply-adds")


if __name__ == "__main__":
    main()
