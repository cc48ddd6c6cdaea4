"""VQAv2 and COCO captions as data files for `tokenreduce ablate --data`.

python examples/convert_data.py vqa v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json \
    --images val2014 --out vqa.jsonl
python examples/convert_data.py coco captions_val2014.json --images val2014 --out captions.jsonl --first 1000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any


def read(path: Path, entry: str) -> list[dict[str, Any]]:
    """A list of a JSON document."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[entry]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path}: expected JSON with a list {entry!r}, got {type(error).__name__}: {error}") from error


def vqa(questions: Path, annotations: Path) -> Iterator[dict[str, Any]]:
    """A line for each question: the votes of ten people, and the kind of answer as its group."""
    votes = {one["question_id"]: one for one in read(annotations, "annotations")}
    for one in read(questions, "questions"):
        told = votes.get(one["question_id"])
        if told is None:
            raise SystemExit(f"{annotations} has no answers to question {one['question_id']}; are both of one split?")
        answers = [answer["answer"] for answer in told["answers"]]
        image = f"COCO_val2014_{one['image_id']:012d}.jpg"
        yield {"image": image, "question": one["question"], "answers": answers, "group": told["answer_type"]}


def coco(captions: Path) -> Iterator[dict[str, Any]]:
    """A line for each picture, with all its captions."""
    texts: dict[int, list[str]] = {}
    for one in read(captions, "annotations"):
        texts.setdefault(one["image_id"], []).append(" ".join(one["caption"].split()))
    for image in read(captions, "images"):
        if image["id"] in texts:
            yield {"image": image["file_name"], "answers": texts[image["id"]]}


def with_pictures(lines: Iterable[dict[str, Any]], images: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The lines whose picture is there, named from the folder of the data file; how many others, on stderr."""
    missing = 0
    for line in lines:
        if (images / line["image"]).is_file():
            yield {**line, "image": os.path.relpath(images / line["image"], folder)}
        else:
            missing += 1
    if missing:
        print(f"left out: {missing} lines whose pictures are not in {images}", file=sys.stderr)


def main() -> None:
    """Parse and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["vqa", "coco"])
    parser.add_argument("files", type=Path, nargs="+", help="questions and annotations, or captions")
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--first", type=int, help="only so many lines")
    args = parser.parse_args()
    lines = vqa(*args.files) if args.kind == "vqa" else coco(*args.files)
    lines = islice(with_pictures(lines, args.images, args.out.parent), args.first)
    found = [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
    args.out.write_text("".join(found), encoding="utf-8")
    print(f"{args.out}: {len(found)} lines")


if __name__ == "__main__":
    main()
