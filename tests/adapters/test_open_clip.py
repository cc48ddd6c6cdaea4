"""open_clip: every kind of model that the adapter takes obeys the same laws, and what cannot be done is refused."""

from __future__ import annotations

import copy
from functools import partial

import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_lp
from open_clip.transformer import Attention, LayerNormFp32, Transformer, VisionTransformer
from torch import nn

import tokenreduce
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce_models.open_clip.adapter import OpenClip

EXAMPLES = OpenClip().examples()
TOWER = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "heads": 4, "mlp_ratio": 2.0, "output_dim": 16}
TEXT = {"context_length": 12, "vocab_size": 99, "width": 32, "heads": 4, "layers": 1}
OPTIONS = {
    "none": {},
    "random": {"keep": 0.6},
    "tome": {"r": 3},
    "evit": {"keep": 0.6},
    "pumer": {"merge": 0.3},
}


@pytest.fixture
def build(scramble):
    """Build a vision tower of open_clip (4 blocks, width 32, 16 patches); keywords override its arguments."""

    def of(cls=VisionTransformer, **arguments):
        return scramble(cls(**{**TOWER, **arguments})).eval()

    return of


@pytest.fixture(params=EXAMPLES)
def example(request):
    return EXAMPLES[request.param]()


def fitted(model, name, options):
    """The options, with a saliency that a tower without a class token in its head can give."""
    reads_class = OpenClip().stacks(model)["vision"].readout is not None
    return options if reads_class or name not in ("evit", "pumer") else {**options, "saliency": "key-norm"}


def tower_of(model):
    return getattr(model, "visual", model)


def final_tokens(visual, x, **attach):
    """Tokens after the last block as they are (restore=False), and the trace that tells what each stands for."""
    seen = []
    with tokenreduce.attach(visual, trace=True, restore=False, **attach) as handle, torch.no_grad():
        hook = visual.transformer.register_forward_hook(lambda module, args, output: seen.append(output))
        try:
            visual(x)
        finally:
            hook.remove()
        return seen[0], handle.last.trace


@pytest.mark.parametrize("name", ["random", "tome", "evit", "pumer"])
def test_tokens_are_really_removed(name, example, tensors_of, snapshot):
    model, untouched = example.model, snapshot(example.model)
    seen = []
    tower = tower_of(model)
    blocks = tower.trunk.blocks if hasattr(tower, "trunk") else tower.transformer.resblocks
    hooks = [block.mlp.register_forward_hook(lambda module, args, output: seen.append(args[0])) for block in blocks]
    with torch.no_grad():
        plain = tensors_of(model(**example.inputs))
        seen.clear()
        with tokenreduce.attach(model, name, **fitted(model, name, OPTIONS[name])) as handle:
            reduced = tensors_of(model(**example.inputs))
            rows = {row.layer: row.tokens_out for row in handle.last.sites}
            before, after = handle.last.macs
    for hook in hooks:
        hook.remove()
    assert [len(t.shape) for t in reduced] == [len(t.shape) for t in plain]
    assert all(tensor.isfinite().all() for tensor in reduced)
    assert not torch.equal(reduced[0], plain[0])
    assert torch.equal(reduced[1], plain[1])  # the text tower
    lengths = [x.shape[1] for x in seen]
    assert all(lengths[layer] == count for layer, count in rows.items())
    assert lengths[-1] < lengths[0] or len(rows) == 1
    assert after < before
    assert snapshot(model) == untouched


def test_macs_by_hand(build, images):
    """qkv 3 C^2, projection C^2, MLP 4 C^2 per token (its ratio is 2 here), 2 N C per token for both products."""
    visual, width = build(), 32
    with tokenreduce.attach(visual, "tome", r=4, layers=[1]) as handle, torch.no_grad():
        visual(images())
        before, after = handle.last.macs

    def block(n, m):
        return n * 4 * width**2 + 2 * n * n * width + m * 4 * width**2

    assert before == 4 * block(17, 17)
    assert after == block(17, 17) + block(17, 13) + 2 * block(13, 13)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("options", [{"reducer": "tome", "r": 4}, {"reducer": "random", "keep": 0.5}], ids=str)
def test_a_mean_weighs_merged_tokens_by_size(last, options, build, images, assert_close):
    visual, x = build(pool_type="avg", final_ln_after_pool=last), images()
    tokens, trace = final_tokens(visual, x, **options)
    size = trace.size if trace.size is not None else torch.ones(tokens.shape[:2])
    assert options["reducer"] == "random" or size[:, 1:].max() > 1
    tokens = tokens if last else visual.ln_post(tokens)
    pooled = (tokens * size.unsqueeze(-1))[:, 1:].sum(dim=1) / size[:, 1:].sum(dim=1, keepdim=True)
    expected = (visual.ln_post(pooled) if last else pooled) @ visual.proj
    with torch.no_grad(), tokenreduce.attach(visual, **options):
        assert_close(visual(x), expected)


POOLS = {
    "attention": {"attentional_pool": True, "pool_type": "tok"},
    "attention-all": {"attentional_pool": True, "pool_type": "none"},
    "parallel": {"attentional_pool": "parallel", "output_dim": 32},
    "cascade": {"attentional_pool": "cascade", "output_dim": 32},
    "class-and-tokens": {},
}


@pytest.mark.parametrize("pool", POOLS)
def test_queries_and_decoders_see_a_merged_token_as_often_as_its_size(pool, build, images, assert_close):
    extra = {"attn_pooler_queries": 5, "attn_pooler_heads": 4, "output_tokens": True}
    visual, x = build(**POOLS[pool], **extra), images()
    tokens, trace = final_tokens(visual, x, reducer="tome", r=4)
    rows = []
    with torch.no_grad():
        for sample, size in zip(tokens, trace.size, strict=True):
            pooled, memory = visual._pool(torch.repeat_interleave(sample, size.round().long(), dim=0)[None])
            rows.append((pooled @ visual.proj, memory))
        with tokenreduce.attach(visual, "tome", r=4):
            got_pooled, got_memory = visual(x)
    assert_close(got_pooled, torch.cat([pooled for pooled, _ in rows]))
    memory = torch.cat([memory for _, memory in rows])
    if pool == "class-and-tokens":  # for cross-attention: the same tokens, in another order
        got_memory, memory = got_memory.sort(dim=1).values, memory.sort(dim=1).values
    assert_close(got_memory, memory)


def test_the_captions_of_coca_weigh_merged_tokens_by_size(assert_close):
    """Without pooling queries the decoder attends to the tokens themselves: the bias log(size) is the same thing."""
    example = EXAMPLES["CoCa"]()
    model, image, text = example.model, example.inputs["image"], example.inputs["text"]
    tokens, trace = final_tokens(model.visual, image, reducer="tome", r=4)
    with torch.no_grad():
        memory, bias = model.visual.ln_post(tokens)[:, 1:], trace.size[:, 1:].log()
        x = model.text(text)[1][:, :-1]
        causal = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        decoder = model.text_decoder
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            x = block(x, attn_mask=causal)
            mask = bias[:, None, None].expand(-1, 4, x.shape[1], -1).flatten(0, 1)
            x = cross(x, k_x=memory, v_x=memory, attn_mask=mask)
        expected = decoder.ln_final(x) @ decoder.text_projection
        with tokenreduce.attach(model, "tome", r=4):
            assert_close(model(image, text)["logits"], expected)


def test_a_class_token_gets_the_short_sequence_and_no_pooling_the_full_one(build, images):
    x = images()
    for pool, length in (("tok", 17 - 12), ("none", 17)):
        visual, seen = build(pool_type=pool), []
        with tokenreduce.attach(visual, "tome", r=3), torch.no_grad():
            visual.transformer.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))
            visual(x)
        assert seen[0].shape == (2, length, 32)


def test_blocks_in_sequence_first_layout(build, images, assert_close):
    visual, x = build(), images()
    turned = copy.deepcopy(visual)
    turned.transformer = Transformer(32, 4, 4, 2.0, batch_first=False).eval()
    turned.transformer.load_state_dict(visual.transformer.state_dict())
    shapes = []
    turned.transformer.resblocks[0].register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    with torch.no_grad():
        plain = turned(x)
        assert_close(plain, visual(x))
        with tokenreduce.attach(turned, "none"):
            assert_close(turned(x), plain)
        with tokenreduce.attach(visual, "tome", r=3), tokenreduce.attach(turned, "tome", r=3) as handle:
            assert_close(turned(x), visual(x))
            assert [row.tokens_out for row in handle.last.sites] == [14, 11, 8, 5]
        assert torch.equal(turned(x), plain)
    assert shapes == [(17, 2, 32), (17, 2, 32), (14, 2, 32), (17, 2, 32)]  # as the block itself returns them


def test_torchs_attention_kernel_does_not_bypass_the_reducer(build, images, monkeypatch):
    """In evaluation without gradients torch answers nn.MultiheadAttention in one kernel of its own."""
    visual, x = build(), images()
    calls = []
    original = torch._native_multi_head_attention
    monkeypatch.setattr(torch, "_native_multi_head_attention", lambda *a, **k: calls.append(1) or original(*a, **k))
    with torch.no_grad():
        visual(x)
        assert len(calls) == 4
        with tokenreduce.attach(visual, "tome", r=3) as handle:
            calls.clear()  # the proof has run a block of its own
            visual(x)
        assert calls == []
        assert [row.tokens_out for row in handle.last.sites] == [14, 11, 8, 5]


def test_checkpointing_recomputes_each_block_once(build, images):
    visual, calls = build().train(), []
    visual.set_grad_checkpointing(True)
    visual.transformer.resblocks[1].ln_2.register_forward_hook(lambda *_: calls.append(1))
    with tokenreduce.attach(visual, "random", keep=0.5):
        output = visual(images())
        assert len(calls) == 1
        output.sum().backward()
    assert len(calls) == 2


def test_patch_dropout_runs_before_the_stack(build, images, assert_close):
    visual, x = build(patch_dropout=0.5).train(), images()
    with torch.no_grad():
        torch.manual_seed(3)
        plain = visual(x)
        with tokenreduce.attach(visual, "none"):
            torch.manual_seed(3)
            assert_close(visual(x), plain)
        with tokenreduce.attach(visual, "tome", r=2) as handle:
            visual(x)
            assert handle.last.sites[0].tokens_in == 1 + 8


@pytest.mark.parametrize("checkpointing", [False, True])
def test_calls_that_fewer_tokens_cannot_answer(checkpointing, build, images):
    visual, x = build(), images()
    visual.set_grad_checkpointing(checkpointing)
    with tokenreduce.attach(visual, "tome", r=3):
        for call in (
            lambda: visual.forward_intermediates(x),
            lambda: visual.transformer(torch.zeros(2, 17, 32), attn_mask=torch.zeros(17, 17)),
            lambda: visual.transformer.resblocks[0](torch.zeros(2, 17, 32)),
        ):
            with pytest.raises(UnsupportedCallError, match="detach"):
                call()
        visual.output_tokens = True
        with pytest.raises(UnsupportedCallError, match="attach again"):
            visual(x)
    model = EXAMPLES["CustomTextCLIP-timm"]().model
    with tokenreduce.attach(model, "tome", r=3), pytest.raises(UnsupportedCallError, match="detach"):
        model.forward_intermediates(torch.zeros(1, 3, 160, 160))


def test_text_towers_are_refused_with_the_reason():
    expected = {
        "CLIP": {"text": ["causal", "end-of-text"]},
        "CustomTextCLIP": {"text": ["last position"]},
        "CoCa": {"text": ["causal", "last position"], "text_decoder": ["causal"]},
    }
    for label, towers in expected.items():
        model = EXAMPLES[label]().model
        for name, words in towers.items():
            with pytest.raises(UnsupportedModelError) as caught:
                tokenreduce.attach(model, {name: "tome"})
            assert all(word in str(caught.value) for word in [*words, "vision", type(model).__name__])
    with pytest.raises(UnsupportedModelError, match="text tower"):
        tokenreduce.attach(EXAMPLES["CustomTextCLIP"]().model.text, "tome")


def test_towers_without_tokens_are_refused_with_the_reason(snapshot):
    cases = {
        "convolutional": {"layers": (1, 1, 1, 1), "width": 16, "image_size": 32},
        "ConvNeXt": {"timm_model_name": "test_convnext", "image_size": 160},
        "relative position": {"timm_model_name": "vit_relpos_small_patch16_224", "timm_pool": "avg"},
    }
    for word, vision in cases.items():
        model = open_clip.CLIP(16, vision, TEXT)
        untouched = snapshot(model)
        with pytest.raises(UnsupportedModelError, match=word):
            tokenreduce.attach(model, "tome")
        assert snapshot(model) == untouched


def test_two_towers_are_refused_and_one_inside_a_users_own_model_is_found(build, images, forwards):
    visual = build()
    with pytest.raises(UnsupportedModelError, match="2 vision towers"):
        tokenreduce.attach(nn.ModuleList([visual, build()]), "tome")
    model = nn.Sequential(visual, nn.Linear(16, 3))
    with tokenreduce.attach(model, "tome", r=3) as handle, torch.no_grad():
        assert model(images()).shape == (2, 3)
        assert handle.last.sites[-1].tokens_out == 5
    assert forwards(model) == []


class OwnPool(VisionTransformer):
    def _global_pool(self, x):
        return x.amax(dim=1), x


def test_what_the_adapter_does_not_know_is_refused(build, snapshot):
    other = build()
    other.transformer.resblocks[1].attn = Attention(32, 4)
    for visual, word in ((build(OwnPool), "_global_pool"), (other, "MultiheadAttention")):
        untouched = snapshot(visual)
        with pytest.raises(UnsupportedModelError, match=word):
            tokenreduce.attach(visual, "none")
        assert snapshot(visual) == untouched


def test_cosine_attention_is_refused_while_open_clip_cannot_run_it(build, images, monkeypatch, assert_close):
    visual, x = build(scaled_cosine_attn=True), images()
    with pytest.raises(RuntimeError):
        visual(x)
    with pytest.raises(UnsupportedModelError, match="cannot be run on tokens alone"):
        tokenreduce.attach(visual, "none")
    monkeypatch.setattr(torch, "bmm", torch.matmul)  # with this mended the view is exact
    with torch.no_grad():
        plain = visual(x)
        with tokenreduce.attach(visual, "none"):
            assert_close(visual(x), plain)


GUIDABLE = [
    label for label in EXAMPLES if "pool" not in label and not label.endswith(("siglip", "parallel", "cascade"))
]


@pytest.mark.parametrize("label", GUIDABLE)
def test_shared_space_is_that_of_the_features(label, assert_close):
    """Where all tokens are equal, whatever the tower pools comes out as any one of them does."""
    example = EXAMPLES[label]()
    stack = OpenClip().stacks(example.model)["vision"]
    assert stack.guidable
    width = stack.blocks[0].norm1.normalized_shape[0] if "timm" in label else 32
    tokens = torch.randn(2, 3, width)
    with torch.no_grad():
        features = stack.shared_space(tokens)
        for place in range(3):
            alike = tokens[:, place : place + 1].expand(-1, 17, -1)
            hook = stack.blocks[-1].register_forward_hook(lambda module, args, output, alike=alike: alike)
            assert_close(features[:, place], example.model.encode_image(example.inputs["image"], normalize=False))
            hook.remove()


@pytest.mark.parametrize("label", ["CLIP-attention-pool", "CustomTextCLIP-timm-siglip", "CoCa-parallel"])
def test_attention_pooling_shares_no_space(label):
    stack = OpenClip().stacks(EXAMPLES[label]().model)["vision"]
    assert not stack.guidable
    with pytest.raises(UnsupportedModelError, match="shares no space"):
        stack.shared_space(torch.zeros(1, 2, 32))


@pytest.mark.sweep
@pytest.mark.parametrize("label", ["CLIP", "CoCa-attention-pool", "CustomTextCLIP-timm"])
def test_one_graph(label, tensors_of, assert_close):
    torch._dynamo.reset()
    example = EXAMPLES[label]()
    visual, image = example.model.visual, example.inputs["image"]
    with tokenreduce.attach(example.model, "tome", r=3) as handle, torch.no_grad():
        expected = tensors_of(visual(image))
        rows = handle.last.sites
        got = tensors_of(torch.compile(visual, fullgraph=True, backend="eager")(image))
        assert handle.last.sites == rows
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "vision", [{}, {"qk_norm": True, "scale_attn": True, "scale_fc": True}], ids=["plain", "custom"]
)
def test_half_precision_as_open_clip_sets_it(vision, scramble, images):
    """Weights in bfloat16, norms in float32; the same for autocast over float32 weights."""
    config = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 8, "layers": 4, **vision}
    model = open_clip.CLIP(16, config, TEXT, cast_dtype=torch.bfloat16).eval()
    scramble(model.visual)
    assert isinstance(model.visual.ln_post, LayerNormFp32)
    x = images()
    with torch.no_grad():
        exact = model.encode_image(x)
        for cast in (False, True):
            if not cast:
                half = copy.deepcopy(model)
                convert_weights_to_lp(half, torch.bfloat16)
                run = partial(half.encode_image, x.bfloat16())
            else:
                half = model
                run = torch.autocast("cpu", torch.bfloat16)(partial(model.encode_image, x))
            plain = run()
            with tokenreduce.attach(half, "none"):
                got = run()
            assert got.dtype == plain.dtype == torch.bfloat16
            error = (plain.float() - exact).abs().max()
            assert (got.float() - exact).abs().max() <= 2 * error
            with tokenreduce.attach(half, "tome", r=3) as handle:
                assert run().isfinite().all()
                assert handle.last.sites[-1].tokens_out == 5
            assert torch.equal(run(), plain)


def test_examples_are_new_each_time_and_always_the_same(example, request, tensors_of):
    label = request.node.callspec.params["example"]
    again = EXAMPLES[label]()
    assert again.model is not example.model
    assert not again.model.training
    with torch.no_grad():
        assert all(
            map(torch.equal, tensors_of(again.model(**again.inputs)), tensors_of(example.model(**example.inputs)))
        )
