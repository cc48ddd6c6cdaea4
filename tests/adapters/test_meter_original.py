"""A model with the parts and names of METER's published code, written for this test, is recognised and served."""

import copy

import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce.attachments.resizing import resize_model
from tokenreduce.errors import UnsupportedCallError, UnsupportedModelError
from tokenreduce.tasks.inputs import resize_inputs
from tokenreduce_models.meter import MeterForQuestionAnswering


class Block(nn.Module):
    """A CLIP block over tokens (N, B, C)."""

    def __init__(self, like):
        super().__init__()
        self.attn = nn.MultiheadAttention(like.attn.embed_dim, like.attn.num_heads)
        self.ln_1, self.mlp, self.ln_2 = like.ln_1, like.mlp, like.ln_2
        self.attn.load_state_dict(like.attn.state_dict())

    def forward(self, x, x_mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, key_padding_mask=x_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self, like):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(block) for block in like.resblocks))

    def forward(self, x, x_mask=None):
        for block in self.resblocks:
            x = block(x, x_mask)
        return x


class Visual(nn.Module):
    def __init__(self, like):
        super().__init__()
        self.conv1, self.ln_pre, self.ln_post = like.conv1, like.ln_pre, like.ln_post
        self.class_embedding, self.positional_embedding = like.class_embedding, like.positional_embedding
        self.transformer = Blocks(like.transformer)

    def forward(self, x, x_mask=None):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x).permute(1, 0, 2), x_mask).permute(1, 0, 2)
        return self.ln_post(x)


class Clip(nn.Module):
    def __init__(self, like):
        super().__init__()
        self.visual = Visual(like.visual)

    def forward(self, image, image_mask=None):
        return self.visual(image, image_mask)


class Original(nn.Module):
    """Our METER's weights behind the other code's names and its ``infer``."""

    def __init__(self, like, updated=False, offset=0.0):
        super().__init__()
        for name, module in like.named_children():
            setattr(self, name, module)
        self.vit_model, self.updated, self.offset = Clip(like.vit_model), updated, offset

    def infer(self, batch, mask_text=False, mask_image=False, image_token_type_idx=1, img=None):
        if img is None:
            img = batch["image"][0]
        ids, masks = batch["text_ids"], batch["text_masks"]
        x = self.text_transformer.embeddings(input_ids=ids)
        low = (1.0 - masks[:, None, None].float()) * -10000.0
        for layer in self.text_transformer.encoder.layer:
            x = layer(x, low)
            x = x if isinstance(x, torch.Tensor) else x[0]
        y = self.vit_model(img)
        ones = torch.zeros(len(y), 1, 1, y.shape[1])
        x = self.cross_modal_text_transform(x) + self.token_type_embeddings(torch.zeros_like(masks))
        kinds = torch.full(y.shape[:2], image_token_type_idx)
        y = self.cross_modal_image_transform(y) + self.token_type_embeddings(kinds) + self.offset
        for text_layer, image_layer in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            new = text_layer(x, y, low, ones)[0]
            y = image_layer(y, new if self.updated else x, ones, low)[0]
            x = new
        pooled = [self.cross_modal_text_pooler(x), self.cross_modal_image_pooler(y)]
        names = ("text_feats", "image_feats", "cls_feats", "text_labels", "text_ids", "text_masks")
        return dict(zip(names, (x, y, torch.cat(pooled, dim=-1), batch["text_labels"], ids, masks), strict=True))

    def forward(self, batch):
        return self.vqa_classifier(self.infer(batch)["cls_feats"])


@pytest.fixture
def pair(tiny_meter):
    """Our model, the same weights in the other code, and inputs for both."""

    def build(updated=False, **options):
        model, inputs = tiny_meter(level_order="sequential" if updated else "parallel")
        batch = {
            "image": [inputs["pixel_values"]],
            "text_ids": inputs["input_ids"],
            "text_masks": inputs["attention_mask"],
            "text_labels": inputs["input_ids"],
        }
        return model, Original(copy.deepcopy(model), updated, **options).eval(), inputs, batch

    return build


@torch.no_grad()
@pytest.mark.parametrize("updated", [False, True], ids=["parallel", "sequential"])
def test_recognised_by_its_parts_and_reduced_like_ours(updated, pair):
    model, original, inputs, batch = pair(updated)
    plain = original(batch)
    torch.testing.assert_close(plain, model(**inputs).logits, rtol=1e-5, atol=1e-5)
    with tokenreduce.attach(original, "none"):
        torch.testing.assert_close(original(batch), plain, rtol=1e-5, atol=1e-5)
    stacks = {"cross": "pumer", "vision": {"reducer": "tome", "r": 3}}
    with tokenreduce.attach(original, stacks) as handle, tokenreduce.attach(model, stacks) as other:
        torch.testing.assert_close(original(batch), model(**inputs).logits, rtol=1e-5, atol=1e-5)
        assert handle.stacks["cross"].last.tokens == other.stacks["cross"].last.tokens
        assert handle.last.sites == other.last.sites
        assert handle.config["adapter"] == "meter"
    assert torch.equal(original(batch), plain)
    assert not {"infer", "forward"} & set(vars(original))


@torch.no_grad()
@pytest.mark.parametrize("size", [(48, 48), (32, 32), (56, 56), (24, 40)])
def test_resized_like_ours(size, pair, snapshot):
    model, original, inputs, batch = pair()
    before = snapshot(original)
    ours, theirs = resize_model(model, *size), resize_model(original, *size)
    inputs, (batch,) = resize_inputs(inputs, *size), resize_inputs((batch,), *size)
    torch.testing.assert_close(theirs(batch), ours(**inputs).logits, rtol=1e-5, atol=1e-5)
    if size == (48, 48):
        assert torch.equal(theirs(batch), original(batch))
    for stacks in ("none", {"cross": "pumer", "vision": {"reducer": "tome", "r": 3}}, {"vision": "random"}):
        with tokenreduce.attach(theirs, stacks) as handle, tokenreduce.attach(ours, stacks) as other:
            torch.testing.assert_close(theirs(batch), ours(**inputs).logits, rtol=1e-5, atol=1e-5)
            assert handle.last.sites == other.last.sites
    assert snapshot(original) == before
    assert image_tokens(original) == 37 and image_tokens(theirs) == 1 + size[0] * size[1] // 64


def image_tokens(model):
    return len(model.vit_model.visual.positional_embedding)


@torch.no_grad()
def test_an_infer_that_does_something_else_is_refused(pair):
    _, original, _, _ = pair(offset=0.1)
    with pytest.raises(UnsupportedModelError, match="does not compute what METER's does"):
        tokenreduce.attach(original, "pumer")
    assert tokenreduce.attachment(original) is None
    assert "infer" not in vars(original)


def test_what_is_refused_says_why(pair):
    _, original, _, batch = pair()
    with pytest.raises(UnsupportedModelError, match="one by one inside infer"):
        tokenreduce.attach(original, {"text": "tome"})
    tokenreduce.attach(original, "pumer")
    with pytest.raises(UnsupportedCallError, match="pre-training"):
        original.infer(batch, mask_text=True)


def test_ours_is_not_taken_for_the_original(tiny_meter):
    from tokenreduce_models.meter.published import is_original

    model, _ = tiny_meter()
    assert isinstance(model, MeterForQuestionAnswering)
    assert not is_original(model)
