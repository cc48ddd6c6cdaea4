"""Tools that change a language model around or beneath an attachment."""

import peft
import pytest
import torch
from torch import nn

import tokenreduce
from tokenreduce.errors import UnsupportedCallError

from .oracle import write

HANDOVER = {"handover": {"reducer": "random", "keep": 8}}
CUT = {"language": {"reducer": "evit", "layers": [1, 2], "keep": 0.5, "fuse": False}}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("plan", [HANDOVER, CUT], ids=["hand-over", "cuts"])
def test_lora_in_either_order(tiny, plan):
    config = peft.LoraConfig(
        r=4, target_modules=r".*language_model.*\.(q_proj|v_proj|up_proj)", init_lora_weights=False
    )
    torch.manual_seed(0)
    with tokenreduce.attach(tiny.model, plan):
        plain = write(tiny.model, tiny.inputs())[1]
        lora = peft.get_peft_model(tiny.model, config)
        after = write(lora, tiny.inputs())[1]
    assert not torch.allclose(after, plain)
    with tokenreduce.attach(lora, plan) as handle:
        torch.testing.assert_close(write(lora, tiny.inputs())[1], after)
        lora.train()
        given = tiny.inputs()
        lora(**given, labels=torch.where(given["input_ids"] < 90, given["input_ids"], -100)).loss.backward()
        grads = [p.grad for name, p in lora.named_parameters() if "lora_" in name]
        assert grads and all(grad is not None for grad in grads)
        lora.eval()
        handle.detach()
    whole = lora.merge_and_unload()
    with tokenreduce.attach(whole, plan):
        torch.testing.assert_close(write(whole, tiny.inputs())[1], after, atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("plan", [HANDOVER, CUT], ids=["hand-over", "cuts"])
def test_int8_weights(tiny, plan):
    from torchao import quantization as torchao  # it registers things when it is imported

    torchao.quantize_(tiny.model.model.language_model, torchao.Int8WeightOnlyConfig())
    plain = write(tiny.model, tiny.inputs())
    with tokenreduce.attach(tiny.model, plan) as handle:
        got = write(tiny.model, tiny.inputs())
        assert got[1].isfinite().all() and not torch.equal(got[1], plain[1])
        assert handle.last.macs[0] > handle.last.macs[1] > 0
    with tokenreduce.attach(tiny.model, {"handover": "none"}):
        assert torch.equal(write(tiny.model, tiny.inputs())[1], plain[1])
    assert torch.equal(write(tiny.model, tiny.inputs())[1], plain[1])


def test_exchanged_parts_act_or_are_refused(tiny):
    language = tiny.model.model.language_model
    with tokenreduce.attach(tiny.model, CUT) as handle, torch.no_grad():
        before = tiny.model(**tiny.inputs()).logits
        layer, language.layers[3] = language.layers[3], _Double(language.layers[3])
        assert not torch.equal(tiny.model(**tiny.inputs()).logits, before)
        language.layers[3] = layer
        old, language.layers[1].self_attn.q_proj = language.layers[1].self_attn.q_proj, nn.Linear(32, 32, bias=False)
        changed = tiny.model(**tiny.inputs()).logits
        handle.detach()
        tokenreduce.attach(tiny.model, CUT)
        assert torch.equal(tiny.model(**tiny.inputs()).logits, changed)
        language.layers[1].self_attn.q_proj = old
        assert torch.equal(tiny.model(**tiny.inputs()).logits, before)
        last = language.layers[2:]
        del language.layers[2:]
        with pytest.raises(UnsupportedCallError, match=r"2 layers"):
            tiny.model(**tiny.inputs())
        language.layers.extend(last)
        assert torch.equal(tiny.model(**tiny.inputs()).logits, before)
        language.forward = lambda *args, **kwargs: None
        with pytest.raises(UnsupportedCallError, match=r"replaced on the instance"):
            tiny.model(**tiny.inputs())
        del language.forward
        tokenreduce.attachment(tiny.model).detach()


class _Double(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs) * 2


def test_data_parallel_replicas_refuse(tiny):
    with tokenreduce.attach(tiny.model, HANDOVER), pytest.raises(UnsupportedCallError, match=r"DataParallel"):
        tiny.model.model._replicate_for_data_parallel()(**tiny.inputs())
