"""Models with a reducer inside, exported, beside torch: every training-free method on timm, some on CLIP and METER.

What works is said by the table of docs/deploy.md, which is read and held here.
With TOKENREDUCE_EVERY_EXPORT set, every one on all three.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

import tokenreduce
from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError
from tokenreduce.export import export, load, without_masks
from tokenreduce.export.agreement import compare_closely, compare_outputs
from tokenreduce.export.program import Served, named_outputs, tensors_in
from tokenreduce.registry import default_registry

EXAMPLES = {
    "timm": ("timm-vit", "VisionTransformer, class token"),
    "clip": ("hf-clip", "CLIPModel"),
    "meter": ("meter", "MeterForQuestionAnswering"),
}
METHODS = [name for name, entry in default_registry().reducers.items() if not getattr(entry.spec, "learns", False)]
EVERYWHERE = METHODS if os.environ.get("TOKENREDUCE_EVERY_EXPORT") else ["none", "tome", "pumer"]
PAIRS = [(family, method) for family in EXAMPLES for method in (METHODS if family == "timm" else EVERYWHERE)]
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"
ROW = re.compile(r"^\| `([\w-]+)` \| (\S+) \| (\S+) \| (\S+) \|$", re.MULTILINE)
SAID = {
    (family, method): cell.strip("`")
    for method, *cells in ROW.findall(DEPLOY.read_text())
    for family, cell in zip(EXAMPLES, cells, strict=True)
}
"""What docs/deploy.md says of a method on a family: ``all``, ``.onnx`` (not OpenVINO), ``.pt2`` or ``refused``."""


def example(family):
    adapter, label = EXAMPLES[family]
    return default_registry().load("adapter", adapter)().examples()[label]()


def attached(family, method):
    """A small model with the method at its defaults, and its inputs; None where the method refuses the model."""
    made = example(family)
    try:
        tokenreduce.attach(made.model, method)
    except UnfitReducerError:
        return None
    return made


def test_the_page_speaks_of_every_method():
    assert {method for _, method in SAID} == set(METHODS)
    assert set(SAID.values()) <= {"all", ".onnx", ".pt2", "refused"}


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_what_the_page_says_is_so(family, method, tmp_path):
    openvino = pytest.importorskip("openvino")
    made, said = attached(family, method), SAID[family, method]
    assert (made is None) == (said == "refused")
    if made is None:
        return
    if said == ".pt2":
        assert all(agreement.ok for agreement in export(made.model, made.inputs, tmp_path / "model.pt2"))
        with pytest.raises(UnsupportedCallError, match=r"no ONNX.*save it as \.pt2"):
            export(made.model, made.inputs, tmp_path / "model.onnx")
        return
    for agreement in export(made.model, made.inputs, tmp_path / "model.onnx"):
        assert agreement.ok, agreement
    openvino.save_model(openvino.convert_model(tmp_path / "model.onnx"), tmp_path / "model.xml", compress_to_fp16=False)
    run, small = load(tmp_path / "model.xml"), tensors_in(made.inputs)
    found = []
    for batch in (small, {name: torch.cat([value, value[:1]]) for name, value in small.items()}):
        with torch.no_grad():
            found.append(compare_outputs(run(batch), named_outputs(made.model(**batch))))
    assert all(agreement.ok for agreement in found) == (said == "all"), found


def test_a_program_in_torch(tmp_path, tiny_vit, images):
    model = tiny_vit(depth=2)
    with tokenreduce.attach(model, "evit", keep=0.6, layers=[0]):
        found = export(model, {"x": images(2)}, tmp_path / "model.pt2", {"x": images(4, seed=3)})
        with torch.no_grad():
            expected = model(images(5, seed=4))
    assert [agreement.batch for agreement in found] == [1, 2, 4] and all(agreement.ok for agreement in found)
    got = load(tmp_path / "model.pt2")({"x": images(5, seed=4)})["output"]  # detached by now
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.sweep
def test_openvino_leaves_one_model_and_takes_no_other(tmp_path, tiny_vit, images):
    model = tiny_vit(depth=1)
    (tmp_path / "model.onnx").write_text("mine")
    with tokenreduce.attach(model, "tome", r=2):
        assert all(agreement.ok for agreement in export(model, {"x": images(2)}, tmp_path / "model.xml"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.onnx", "model.xml"]
    assert (tmp_path / "model.onnx").read_text() == "mine"


@pytest.mark.sweep
def test_equal_scores_choose_the_earlier_token_everywhere(tmp_path):
    import openvino

    class Sorted(torch.nn.Module):
        def forward(self, x):
            down = x.argsort(dim=1, descending=True, stable=True)
            up = (x > 1).to(torch.int8).argsort(dim=1, stable=True)
            return {"down": down, "up": up}

    x = torch.randint(0, 3, (4, 9), generator=torch.Generator().manual_seed(0)).float()
    assert all(agreement.ok for agreement in export(Sorted(), {"x": x}, tmp_path / "sorted.onnx"))
    run = openvino.Core().compile_model(openvino.convert_model(tmp_path / "sorted.onnx"), "CPU")({"x": x.numpy()})
    for name, expected in Sorted()(x).items():
        assert torch.equal(torch.as_tensor(run[name]).long(), expected), name


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "got no tensors"),
        ({"x": torch.zeros(1, 3, 32, 32)}, "batch of two or more"),
        ({"x": torch.zeros(2, 3, 32, 32), "y": torch.zeros(3)}, "the same batch"),
    ],
)
def test_inputs_that_leave_no_batch_open(inputs, words, tmp_path, tiny_vit):
    with pytest.raises(OptionError, match=words):
        export(tiny_vit(), inputs, tmp_path / "model.pt2")


def test_an_ending_that_is_no_format(tmp_path, tiny_vit, images):
    with pytest.raises(OptionError, match=r"one of \.onnx, \.xml, \.pt2"):
        export(tiny_vit(), {"x": images(2)}, tmp_path / "model.tflite")


def test_outputs_by_name():
    value = torch.ones(2)
    assert list(named_outputs(value)) == ["output"]
    assert list(named_outputs((value, None, value))) == ["output_0", "output_2"]
    assert list(named_outputs({"logits": value, "inner": {"x": value}})) == ["logits"]
    with pytest.raises(UnsupportedCallError, match="without a tensor"):
        named_outputs({"inner": {"x": value}})


def test_what_is_no_tensor_stays_as_it_was():
    class Scaled(torch.nn.Module):
        def forward(self, x, by):
            return x * by

    served = Served(Scaled(), {"x": torch.ones(2), "by": 3})
    assert served.names == ["output"] and float(served(torch.ones(1))[0]) == 3


def test_agreement_is_of_the_largest_value():
    right = {"a": torch.tensor([100.0, 1.0])}
    assert compare_outputs({"a": torch.tensor([100.001, 1.0])}, right).ok
    assert not compare_outputs({"a": torch.tensor([101.0, 1.0])}, right).ok
    assert not compare_outputs({"a": torch.tensor([float("nan"), 1.0])}, right).ok
    assert not compare_outputs({}, right).ok
    assert not compare_outputs({"a": torch.ones(3)}, right).ok


def test_a_choice_between_tokens_that_nearly_tie_is_told_from_a_fault():
    def larger(inputs):
        """Where the largest of three numbers is: it jumps where two of them tie."""
        return {"place": 10.0 + inputs["x"].argmax(dim=1).float()}

    tie, clear = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    other = {"place": torch.tensor([11.0])}
    found = compare_closely(other, larger, {"x": tie})
    assert found.ok and found.worst > 0.05 and "nearly tie" in str(found)
    fault = compare_closely(other, larger, {"x": clear})
    assert not fault.ok and "nearly tie" not in str(fault)
    assert not compare_closely({"place": torch.tensor([13.0])}, larger, {"x": tie}).ok
    assert not compare_closely({}, larger, {"x": tie}).ok


@pytest.mark.sweep
def test_vilt_without_padding(tiny_vilt, vilt_inputs, tmp_path):
    """A mask of ones is left out, and a program has no place for the patches that a real one would draw among."""
    model = tiny_vilt()
    inputs = vilt_inputs(batch=2, lengths=[7, 5], sizes=[(32, 32), (32, 32)])
    with tokenreduce.attach(model, "pumer", layers=[1, 2]):
        kept, gone = without_masks(model, inputs)
        assert gone == ["pixel_mask"] and sorted(kept) == ["attention_mask", "input_ids", "pixel_values"]
        assert all(agreement.ok for agreement in export(model, kept, tmp_path / "model.pt2"))
        padded = vilt_inputs(batch=2, sizes=[(32, 32), (32, 16)])
        assert without_masks(model, padded)[1] == []
        with pytest.raises(UnsupportedCallError, match="cannot follow ViltForQuestionAnswering"):
            export(model, padded, tmp_path / "padded.pt2")
