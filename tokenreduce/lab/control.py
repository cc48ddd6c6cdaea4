"""The control without any reduction: the model as it is on smaller pictures."""

from __future__ import annotations

import torch

from .._torch import call
from ..attachments.resizing import patch_size
from ..errors import UnsupportedModelError
from ..measure.calibration import tokens_left
from ..measure.macs import count_macs
from ..tasks.inputs import image_size
from .context import Context, attach_arguments
from .result import Row

Size = tuple[int, int]


def smaller_input(bench: Context, baseline: Row, *, ratio: float | None = None, share: float | None = None) -> Row:
    """A row for the baseline on pictures so small that as many tokens, or multiply-adds, remain as asked for.

    Args:
        ratio: share of image tokens that is to be missing, or
        share: share of the baseline's multiply-adds to remain.

    Raises:
        UnsupportedModelError: no pictures among the inputs, or a model that takes only one size.
    """
    wanted = {"ratio": ratio, "share": share, **bench.against(baseline), "samples": bench.cost_batch}
    size: Size = bench.cell(
        "size",
        Size,
        {**wanted, **bench.of_first},
        lambda: bench.team.alone(lambda: _fitting(bench, baseline, ratio=ratio, share=share)),
    )
    height, width = size
    return Row(
        f"smaller input {height}x{width}",
        baseline.reducer,
        dict(baseline.options),
        "smaller input",
        "control",
        ratio=ratio,
        target_macs=share,
        input_size=(height, width),
        seeds=list(baseline.seeds),
        notes=list(baseline.notes),
    )


def _fitting(bench: Context, baseline: Row, *, ratio: float | None, share: float | None) -> Size:
    """The size, among those of whole patches and about the same shape, that comes closest."""
    sizes = candidates(bench)
    if ratio is not None:
        height, width = native_size(bench)
        return min(sizes, key=lambda s: abs(s[0] * s[1] / (height * width) - (1 - ratio)))
    assert share is not None and baseline.macs is not None
    low, high = 0, len(sizes) - 1
    seen: dict[int, float] = {}
    while low <= high:
        middle = (low + high) // 2
        seen[middle] = _macs(bench, baseline, sizes[middle]) / baseline.macs
        low, high = (middle + 1, high) if seen[middle] < share else (low, middle - 1)
    return sizes[min(seen, key=lambda i: abs(seen[i] - share))]


def _macs(bench: Context, baseline: Row, size: Size) -> int:
    model = bench.model_for(size)
    with bench.attach(model, attach_arguments(baseline)):
        return count_macs(model, bench.inputs(bench.cost_batch, size), samples=bench.cost_batch)


def candidates(bench: Context) -> list[Size]:
    """Sizes in pixels of whole patches, smaller than the pictures, of nearly their shape, by rising area.

    Raises:
        UnsupportedModelError: the inputs hold no pictures, or the model does not divide them into patches.
    """
    (rows, columns), patch = patch_grid(bench)
    found = set()
    for side in range(1, rows + 1):
        across = max(round(side * columns / rows), 1)
        for wide in (across, across - 1):
            if wide > 0 and side * wide < rows * columns:
                found.add((side * patch[0], wide * patch[1]))
    return sorted(found, key=lambda size: (size[0] * size[1], size))


def patch_grid(bench: Context) -> tuple[Size, Size]:
    """Rows and columns of patches in the pictures of the first batch, and height and width of a patch.

    Raises:
        UnsupportedModelError: the inputs hold no pictures, or the model does not divide them into patches.
    """
    height, width = native_size(bench)
    patch = patch_size(bench.model)
    if patch is None:
        raise UnsupportedModelError(f"{type(bench.model).__name__} has no patch embedding that could take other sizes")
    return (height // patch[0], width // patch[1]), patch


def native_size(bench: Context) -> Size:
    """Height and width of the pictures of the first batch.

    Raises:
        UnsupportedModelError: there are none.
    """
    size = image_size(bench.inputs(1))
    if size is None:
        raise UnsupportedModelError("the inputs hold no pictures (floating-point tensors of at least four axes)")
    return size


def tokens_at(bench: Context, row: Row, size: Size) -> int:
    """Image tokens at the start of the first stack for pictures of a size."""
    with bench.put(row, size) as handle, torch.inference_mode():
        call(handle.model, bench.inputs(1, size))
        tokens_left(handle)
        first = next(iter(handle.stacks.values()))
        assert first.last is not None
        return first.last.initial[first.stack.main_stream]
