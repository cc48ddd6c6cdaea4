"""A model resized for other pictures computes as before at its own size, and is reduced at smaller and larger ones."""

import copy
import importlib.util
import pickle

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce._torch import call
from tokenreduce.attachments.resizing import patch_size, resize_model
from tokenreduce.backbones import Adapter
from tokenreduce.errors import AlreadyAttachedError, OptionError, UnsupportedCallError, UnsupportedModelError
from tokenreduce.tasks.inputs import image_size, resize_inputs

SQUARE = ("ViTForMaskedImageModeling", "DeiTForMaskedImageModeling")
ELSEWHERE = {"hf-siglip2", "hf-videomae", "hf-vitmae", "hf-lvlm"}  # no pictures, or tokens that are not all its patches


def examples():
    """Every example of every adapter whose library is there, and whose models take pictures as a grid of tokens."""
    registry = tokenreduce.registry.default_registry()
    for name in sorted(set(registry.adapters) - ELSEWHERE, key=list(registry.adapters).index):
        library = registry.entry("adapter", name).spec.library
        if not library or importlib.util.find_spec(library) is not None:
            for label, maker in registry.load("adapter", name)().examples().items():
                yield pytest.param(maker, id=f"{name}, {label}")


EXAMPLES = list(examples())
FIRST = list({example.id.split(",")[0]: example for example in reversed(EXAMPLES)}.values())


@torch.no_grad()
def image_tokens(model, inputs, reducer="none"):
    """Image tokens before the first site, and after the last, of the default stack."""
    with tokenreduce.attach(model, reducer) as handle:
        call(model, inputs)
        counts = [(row.tokens_in, row.tokens_out) for row in handle.last.sites if row.stream == "image"]
    return counts[0][0], counts[-1][1]


def grids(example):
    """Height and width of a patch, and rows and columns of patches."""
    patch, size = patch_size(example.model), image_size(example.inputs)
    return patch, (size[0] // patch[0], size[1] // patch[1])


def resized_to(example, rows, columns):
    """The example with pictures of so many rows and columns of patches."""
    (high, wide), _ = grids(example)
    size = rows * high, columns * wide
    return resize_model(example.model, *size), resize_inputs(example.inputs, *size)


@pytest.mark.parametrize("maker", EXAMPLES)
@torch.no_grad()
def test_every_example_at_its_own_size_and_around_it(maker, snapshot, tensors_of):
    example = maker()
    model, (_, (rows, columns)) = example.model, grids(example)
    before, weights = snapshot(model), copy.deepcopy(model.state_dict())
    torch.manual_seed(1)  # ViLT shuffles its patches
    expected = tensors_of(call(model, example.inputs))
    front = image_tokens(model, example.inputs)[0] - rows * columns
    torch.manual_seed(1)
    same = tensors_of(call(*resized_to(example, rows, columns)))
    assert all(torch.equal(got, wanted) for got, wanted in zip(same, expected, strict=True))
    square = type(model).__name__ in SQUARE or type(model).__module__.startswith("torchvision.")
    wider = 1 if square else 2
    for h, w, reducer in ((rows - 2, columns - 2, "tome"), (rows + 1, columns + wider, "random")):
        resized, inputs = resized_to(example, h, w)
        outputs = tensors_of(call(resized, inputs))
        assert len(outputs) == len(expected) and all(tensor.isfinite().all() for tensor in outputs)
        first, last = image_tokens(resized, inputs, reducer)
        assert first == front + h * w > last
    assert snapshot(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("maker", FIRST)
@torch.no_grad()
def test_controls_and_a_method_at_smaller_and_larger_sizes(maker):
    example = maker()
    _, (rows, columns) = grids(example)
    front = image_tokens(example.model, example.inputs)[0] - rows * columns
    for step in (-1, 2):
        resized, inputs = resized_to(example, rows + step, columns + step)
        count = front + (rows + step) * (columns + step)
        assert image_tokens(resized, inputs) == (count, count)
        for reducer in ("random", "tome"):
            first, last = image_tokens(resized, inputs, reducer)
            assert first == count > last


def example_of(adapter, label):
    return tokenreduce.registry.default_registry().load("adapter", adapter)().examples()[label]()


LIBRARY = [
    ("hf-clip", "CLIPVisionModel"),
    ("hf-siglip", "SiglipVisionModel"),
    ("hf-vit", "ViTModel"),
    ("hf-vit", "DeiTModel"),
    ("hf-blip", "BlipVisionModel"),
    ("hf-bridgetower", "BridgeTowerModel"),
]


@pytest.mark.parametrize(("adapter", "label"), LIBRARY)
@pytest.mark.parametrize("size", [(24, 24), (64, 64), (24, 56)])
@torch.no_grad()
def test_it_computes_what_the_library_does_when_told_to_interpolate(adapter, label, size, tensors_of, assert_close):
    example = example_of(adapter, label)
    inputs = resize_inputs(example.inputs, *size)
    expected = tensors_of(example.model(**inputs, interpolate_pos_encoding=True))
    resized = resize_model(example.model, *size)
    for options in ({}, {"interpolate_pos_encoding": True}):
        for got, wanted in zip(tensors_of(resized(**inputs, **options)), expected, strict=True):
            assert_close(got, wanted, 1e-6)


@pytest.mark.parametrize("label", ["Dinov2Model", "Dinov2WithRegistersModel"])
@pytest.mark.parametrize("size", [(24, 24), (64, 64), (24, 56)])
@torch.no_grad()
def test_it_computes_what_dinov2_does_by_itself(label, size, tensors_of, assert_close):
    example = example_of("hf-dinov2", label)
    inputs = resize_inputs(example.inputs, *size)
    resized = resize_model(example.model, *size)
    for got, wanted in zip(tensors_of(resized(**inputs)), tensors_of(example.model(**inputs)), strict=True):
        assert_close(got, wanted, 1e-6)


@torch.no_grad()
def test_open_clip_loads_the_same_positions():
    from open_clip.model import resize_pos_embed

    example = example_of("open-clip", "CLIP")
    resized = resize_model(example.model, 16, 16)
    state = example.model.state_dict()
    resize_pos_embed(state, resized)
    assert torch.equal(state["visual.positional_embedding"], resized.visual.positional_embedding)


@torch.no_grad()
def test_meter_loads_the_same_positions(tmp_path):
    from tokenreduce_models.meter import MeterModel

    example = example_of("meter", "MeterModel")
    path = tmp_path / "meter.ckpt"
    torch.save({"state_dict": example.model.state_dict()}, path)
    heads = {"vision_heads": 2, "num_attention_heads": 2, "text_config": example.model.config.text_config}
    loaded = MeterModel.from_checkpoint(path, image_size=32, **heads)
    resized = resize_model(example.model, 32, 32)
    assert torch.equal(loaded.vit_model.visual.positional_embedding, resized.vit_model.visual.positional_embedding)
    assert resized.config.image_size == 32 and example.model.config.image_size == 48


@pytest.mark.parametrize(("adapter", "label"), [*LIBRARY, ("timm-vit", "VisionTransformer, class token")])
@torch.no_grad()
def test_a_resized_model_can_be_resized(adapter, label, tensors_of, forwards):
    example = example_of(adapter, label)
    inputs = resize_inputs(example.inputs, 24, 24)
    twice = resize_model(resize_model(example.model, 32, 64), 24, 24)
    assert not forwards(twice)
    assert all(tensor.isfinite().all() for tensor in tensors_of(call(twice, inputs)))
    assert image_tokens(twice, inputs)[0] == image_tokens(resize_model(example.model, 24, 24), inputs)[0]


@pytest.mark.parametrize(("adapter", "label"), [*LIBRARY, ("hf-dinov2", "Dinov2WithRegistersModel")])
@torch.no_grad()
def test_oblong_copies_can_be_copied_and_pickled(adapter, label, tensors_of):
    example = example_of(adapter, label)
    inputs = resize_inputs(example.inputs, 24, 56)
    resized = resize_model(example.model, 24, 56)
    expected = tensors_of(resized(**inputs))
    for other in (copy.deepcopy(resized), pickle.loads(pickle.dumps(resized))):
        for parameter in resized.parameters():
            parameter.zero_()
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(other(**inputs)), expected, strict=True))
        resized = other


@torch.no_grad()
def test_oblong_copies_say_what_size_they_take(images):
    for adapter, label in (*LIBRARY[:5], ("hf-dinov2", "Dinov2Model")):
        resized = resize_model(example_of(adapter, label).model, 24, 56)
        with pytest.raises(UnsupportedCallError, match=r"24 x 56 pixels, got 56 x 24"):
            resized(pixel_values=images(height=56, width=24))


@torch.no_grad()
def test_square_copies_can_be_saved_and_loaded(tmp_path, tensors_of):
    for adapter, label in [*LIBRARY, ("hf-dinov2", "Dinov2Model")]:
        example = example_of(adapter, label)
        resized, inputs = resize_model(example.model, 24, 24), resize_inputs(example.inputs, 24, 24)
        resized.save_pretrained(tmp_path / label)
        loaded = type(resized).from_pretrained(tmp_path / label)
        for got, wanted in zip(tensors_of(loaded(**inputs)), tensors_of(resized(**inputs)), strict=True):
            assert torch.equal(got, wanted)


class Wrapped(nn.Module):
    """A user's own head around a tower."""

    def __init__(self, tower, width=32):
        super().__init__()
        self.tower, self.head = tower, nn.Linear(width, 3)

    def forward(self, images):
        out = self.tower(images)
        return self.head(out if isinstance(out, torch.Tensor) else out.last_hidden_state[:, 0])


@pytest.mark.parametrize("adapter", ["timm-vit", "open-clip", "hf-clip", "hf-siglip", "hf-dinov2", "hf-blip"])
@torch.no_grad()
def test_a_users_own_model_around_a_tower(adapter, images, snapshot):
    made = {
        "timm-vit": ("VisionTransformer, class token", 7),
        "open-clip": ("CLIP", 16),
        "hf-clip": ("CLIPVisionModel", 32),
        "hf-siglip": ("SiglipVisionModel", 32),
        "hf-dinov2": ("Dinov2Model", 32),
        "hf-blip": ("BlipVisionModel", 32),
    }
    label, width = made[adapter]
    tower = example_of(adapter, label).model
    model = Wrapped(getattr(tower, "visual", tower), width).eval()
    before = snapshot(model)
    for height, wide in ((16, 16), (64, 64), (24, 48)):
        resized = resize_model(model, height, wide)
        assert resized(images(height=height, width=wide)).shape == (2, 3)
        with tokenreduce.attach(resized, "tome", r=1):
            assert resized(images(height=height, width=wide)).shape == (2, 3)
    assert snapshot(model) == before


@pytest.mark.parametrize("task", ["vilt-digits", "clip-digits", "meter-digits"])
@torch.no_grad()
def test_the_embedded_models(task, embedded):
    made = embedded(task)
    batch = made.data(4, 4)[0]
    model, size = made.model, image_size(batch.inputs)
    patch = patch_size(model)
    right = made.metric(call(model, batch.inputs), batch.targets).mean()
    assert torch.equal(made.metric(call(resize_model(model, *size), batch.inputs), batch.targets).mean(), right)
    smaller = size[0] - patch[0], size[1] - patch[1]
    resized, inputs = resize_model(model, *smaller), resize_inputs(batch.inputs, *smaller)
    assert made.metric(call(resized, inputs), batch.targets).shape == (4,)
    fewer = (size[0] * size[1] - smaller[0] * smaller[1]) // (patch[0] * patch[1])
    assert image_tokens(model, batch.inputs)[0] - image_tokens(resized, inputs)[0] == fewer


@torch.no_grad()
def test_half_precision_and_frozen_weights_stay(images):
    model = example_of("hf-clip", "CLIPVisionModel").model.to(torch.bfloat16).requires_grad_(False)
    resized = resize_model(model, 24, 24)
    assert {(p.dtype, p.requires_grad) for p in resized.parameters()} == {(torch.bfloat16, False)}
    assert resized(images(height=24, width=24)).last_hidden_state.dtype == torch.bfloat16


def test_patches_of_a_hybrid(tiny_vit):
    """timm's hybrids see a patch through a small convolutional network first."""
    from timm.layers import HybridEmbed

    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))
    model = tiny_vit(embed_layer=lambda **given: HybridEmbed(stem, **{**given, "patch_size": 2}))
    assert patch_size(model) == (8, 8)
    resized = resize_model(model, 48, 24)
    assert image_tokens(resized, (torch.randn(1, 3, 48, 24),))[0] == 19


def test_sizes_that_are_not_whole_patches_are_refused():
    for adapter, label in [*LIBRARY, ("timm-vit", "VisionTransformer, class token"), ("open-clip", "CLIP")]:
        model = example_of(adapter, label).model
        with pytest.raises(OptionError, match=r"width must be a multiple of 8, .* got 30; try 24 or 32"):
            resize_model(model, 32, 30)
        for bad in (0, -8, 8.0, True, None):
            with pytest.raises(OptionError, match="height must be a whole number"):
                resize_model(model, bad, 32)
    for adapter, label in (("hf-vilt", "ViltModel"), ("meter", "MeterModel"), ("open-clip", "CustomTextCLIP-timm")):
        with pytest.raises(OptionError, match="height must be a multiple of"):
            resize_model(example_of(adapter, label).model, 5, 48)


@torch.no_grad()
def test_a_models_own_size_need_not_be_whole_patches(images):
    """As SigLIP's 384 pixels in patches of 14."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = SiglipVisionModel(SiglipVisionConfig(**small, image_size=30, patch_size=8)).eval()
    pixels = images(height=30, width=30)
    assert torch.equal(resize_model(model, 30, 30)(pixels)[0], model(pixels)[0])
    assert resize_model(model, 16, 16)(images(height=16, width=16))[0].shape[1] == 4
    with pytest.raises(OptionError, match="try 24 or 32"):
        resize_model(model, 30, 24)


@torch.no_grad()
def test_a_model_made_for_oblong_images(images):
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTModel(ViTConfig(**small, image_size=(16, 48), patch_size=8)).eval()
    pixels = images(height=16, width=48)
    assert torch.equal(resize_model(model, 16, 48)(pixels)[0], model(pixels)[0])
    assert resize_model(model, 24, 24)(images(height=24, width=24))[0].shape[1] == 10


def test_masked_image_modeling_takes_squares_only():
    for label in SQUARE:
        with pytest.raises(UnsupportedModelError, match="takes square images only, got 24 x 32"):
            resize_model(example_of("hf-vit", label).model, 24, 32)


def test_a_vilt_that_picks_patches_is_not_made_to_see_more(tiny_vilt):
    model = tiny_vilt(max_image_length=16)
    assert resize_model(model, 32, 32) is model
    with pytest.raises(UnsupportedModelError, match="max_image_length = -1"):
        resize_model(model, 40, 32)
    model.config.max_image_length = -1
    assert resize_model(model, 40, 32) is model


def test_what_cannot_be_resized():
    class Fixed(Adapter):
        pass

    model = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="Fixed cannot change the input size of Linear"):
        Fixed().resize(model, 32, 32)
    with pytest.raises(UnsupportedModelError, match="no adapter takes"):
        resize_model(model, 32, 32)
    with pytest.raises(UnsupportedModelError, match=r"torch.nn.Module, got str"):
        resize_model("vit", 32, 32)


def test_an_attached_model_is_not_resized(tiny_vit):
    model = tiny_vit()
    with tokenreduce.attach(model, "tome"), pytest.raises(AlreadyAttachedError, match=r"detach\(\) it"):
        resize_model(model, 16, 16)


def test_patches_of_models_that_no_adapter_takes():
    assert patch_size(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, (4, 6), (4, 6)))) == (4, 6)
    assert patch_size(nn.Linear(2, 2)) is None


def test_a_language_model_is_not_resized():
    """Its prompt has a placeholder for every token, which the processor counts."""
    model = example_of("hf-lvlm", "LlavaForConditionalGeneration").model
    with pytest.raises(UnsupportedModelError, match="cannot change the input size of LlavaForConditionalGeneration"):
        resize_model(model, 24, 24)
