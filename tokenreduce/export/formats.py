"""From an attached model to a file of a runtime, and back to something that can be called."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import evaluating
from ..errors import OptionError, PluginError, UnsupportedCallError, reason_of
from .agreement import Agreement, compare_closely
from .program import Served, export_program, named_outputs, tensors_in
from .translations import onnx_translations

NAMES = "names.json"
"""What a ``.pt2`` file also holds: the names of inputs and outputs, in its order."""
Runner = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Outputs by name, from inputs by name."""


def export(
    model: nn.Module, inputs: Mapping[str, Any], path: str | Path, check: Mapping[str, Any] | None = None
) -> list[Agreement]:
    """Write a model with what is attached to it for a server, and compare it with torch.

    Args:
        model: as it is to be served, a reducer attached.
        inputs: by keyword, of one batch of two or more samples; other batches are open, all other sizes fixed.
        path: ``.onnx``, ``.xml`` (OpenVINO) or ``.pt2`` (``torch.export``).
        check: inputs of a batch of another size; by default those of ``inputs`` with the first sample once more.

    Returns:
        How it agrees with torch on a batch of one, on the given one, and on the other size.

    Raises:
        OptionError: another ending, or inputs that are not as they should be.
        PluginError: the runtime is not installed.
        UnsupportedCallError: the model cannot be exported, and why.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise OptionError(f"the file's ending says its format: one of {', '.join(FORMATS)}; got {str(path)!r}")
    tensors = tensors_in(inputs)
    served = Served(model, inputs).eval()
    program = export_program(served, inputs)
    FORMATS[path.suffix](program, served, tensors, path)
    run = load(path)
    other = tensors_in(check) if check is not None else {k: torch.cat([v, v[:1]]) for k, v in tensors.items()}
    batches = [{name: value[:1] for name, value in tensors.items()}, tensors, other]

    def answer(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_outputs(model(**batch, **served.fixed))

    with evaluating(model):
        return [compare_closely(run(one), answer, one) for one in batches]


def load(path: str | Path) -> Runner:
    """A file that :func:`export` wrote, to be called with inputs by name.

    Raises:
        OptionError: another ending. PluginError: the runtime is not installed.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        session = _library("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = [one.name for one in session.get_outputs()]
        known = {one.name for one in session.get_inputs()}

        def in_onnxruntime(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = {name: value.numpy() for name, value in inputs.items() if name in known}
            return dict(zip(outputs, map(torch.as_tensor, session.run(None, given)), strict=True))

        return in_onnxruntime
    if path.suffix == ".xml":
        compiled = _library("openvino").Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        keys = {name for one in compiled.inputs for name in one.get_names()}

        def in_openvino(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            found = compiled({name: value.numpy() for name, value in inputs.items() if name in keys})
            return {one.get_any_name(): torch.as_tensor(found[one]) for one in compiled.outputs}

        return in_openvino
    if path.suffix == ".pt2":
        extra = {NAMES: ""}
        module = torch.export.load(path, extra_files=extra).module()
        about = json.loads(extra[NAMES])

        def in_torch(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                found = module(*(inputs[name] for name in about["inputs"]))
            return dict(zip(about["outputs"], found, strict=True))

        return in_torch
    raise OptionError(f"the file's ending says its format: one of {', '.join(FORMATS)}; got {str(path)!r}")


def _write_program(program: Any, served: Served, tensors: Mapping[str, Tensor], path: Path) -> None:
    torch.export.save(
        program, path, extra_files={NAMES: json.dumps({"inputs": served.inputs, "outputs": served.names})}
    )


def _write_onnx(program: Any, served: Served, tensors: Mapping[str, Tensor], path: Path) -> None:
    for name in ("onnx", "onnxscript"):
        _library(name)
    try:
        with _quietly():
            torch.onnx.export(
                program,
                tuple(tensors.values()),
                str(path),
                input_names=list(tensors),
                output_names=served.names,
                dynamo=True,
                external_data=_is_large(served),
                custom_translation_table=onnx_translations(),
                verbose=False,
            )
    except Exception as error:  # of torch or onnxscript
        raise UnsupportedCallError(
            f"this model with what is attached to it has no ONNX: {_last_reason(error)}. For torch alone, "
            "save it as .pt2; docs/deploy.md says which methods have ONNX"
        ) from error


def _write_openvino(program: Any, served: Served, tensors: Mapping[str, Tensor], path: Path) -> None:
    openvino = _library("openvino")
    between = path.with_suffix(".onnx")
    known = between.exists()
    target = between if not known else path.with_name(f"{path.stem}-openvino.onnx")
    try:
        _write_onnx(program, served, tensors, target)
        openvino.save_model(openvino.convert_model(str(target)), str(path), compress_to_fp16=False)
    finally:
        for left in (target, Path(f"{target}.data")):
            left.unlink(missing_ok=True)


FORMATS: dict[str, Callable[[Any, Served, Mapping[str, Tensor], Path], None]] = {
    ".onnx": _write_onnx,
    ".xml": _write_openvino,
    ".pt2": _write_program,
}
"""What can be written, by the ending of the file."""


def _is_large(module: nn.Module) -> bool:
    """Whether the weights do not fit one file of ONNX, which holds 2 GB."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) > 1_800_000_000


def _last_reason(error: BaseException) -> str:
    """What is missing, which torch says in the innermost of several errors, in its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in reason_of(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Torch's exporter tells of its steps on standard output, and warns of its own internals."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(
            f"this format needs {name}, which is not installed: pip install 'tokenreduce[export]'"
        ) from error
