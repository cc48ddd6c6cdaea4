"""ViLT answers questions about pictures, before and after PuMer; a PNG shows which parts of the picture are left.

python examples/vilt_question.py
python examples/vilt_question.py --model dandelin/vilt-b32-finetuned-vqa --image cat.jpg --question "what animal is it?"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tokenreduce
from tokenreduce.lab.tuned_weights import tuned_task
from tokenreduce.report.figure import draw
from tokenreduce.report.regions import regions
from tokenreduce.report.sample_source import sample_from_file
from tokenreduce.report.sample_view import answers, attach_traced, pictures
from tokenreduce.tasks import Inputs, Sample
from tokenreduce.tasks.loading import load_task
from tokenreduce.tasks.task import Task


def asked(task: Task, image: Path | None, question: str, samples: int) -> tuple[Inputs, list[Sample]]:
    """Inputs of the model and what a person sees: a picture of your own, or the first held-out ones of the task."""
    if image is not None:
        inputs, sample = sample_from_file(task, image, question)
        return inputs, [sample]
    batch = task.data(samples, samples)[0]
    assert task.samples is not None
    return batch.inputs, list(task.samples(batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vilt-scenes", help="hub id or folder (default: the embedded one)")
    parser.add_argument("--image", type=Path, help="a picture of yours")
    parser.add_argument("--question", default="", help="and what you ask about it")
    parser.add_argument("--samples", type=int, default=8, help="without a picture: held-out questions of the model (8)")
    parser.add_argument(
        "--out", type=Path, default=Path("question.png"), help="picture of the first one (question.png)"
    )
    args = parser.parse_args()
    if args.image is None and args.model != "vilt-scenes":
        parser.error("--model needs a picture and a question: --image cat.jpg --question 'what animal is it?'")

    task = load_task(tokenreduce.registry.default_registry(), args.model)
    inputs, samples = asked(task, args.image, args.question, args.samples)
    rows = {"pumer": task}
    weights = task.settings.get("pumer tuned", {}).get("weights")  # the embedded model, fine-tuned with PuMer attached
    if weights:
        rows["pumer tuned"] = tuned_task(task, weights)
    before, seen = answers(task, inputs), {}
    for row, variant in rows.items():
        with attach_traced(variant, "pumer", {}) as handle:
            seen[row] = pictures(variant, inputs, samples, row, handle, before)
            print(handle, "\n") if row == "pumer" else None

    heads = ["right", "plain", *rows]
    print(f"{'question':38}" + "".join(f"{head:>13}" for head in heads))
    for place, sample in enumerate(samples):
        words = [sample.answer or "?", before[place], *(seen[row][place].after for row in rows)]
        print(f"{sample.text:38}" + "".join(f"{word:>13}" for word in words))
    first = seen["pumer"][0]
    args.out.write_bytes(draw(first))
    print(
        f"\npatches of the first picture: {len(first.owner)}, {regions(first.grid, first.owner)}\nwritten: {args.out}"
    )


if __name__ == "__main__":
    main()
