"""PEFT around a learnable reducer: frozen unless it is told to train and save it."""

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification

import tokenreduce
from tokenreduce.errors import UnsupportedCallError

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for what it has renamed
@pytest.mark.parametrize("saved", [True, False])
def test_the_reducer_trains_and_is_saved_where_it_is_named(saved, tmp_path):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8))
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2], keep=0.7)
    names = ["tokenreduce", "classifier"] if saved else ["classifier"]
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=names)
    lora = peft.get_peft_model(model, config).train()
    loss = lora(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss
    (loss + sum(handle.last.losses.values())).backward()
    trained = {
        name for name, weight in lora.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert any("lora_B" in name for name in trained)
    assert any(".tokenreduce." in name for name in trained) == saved
    lora.save_pretrained(tmp_path / "lora")
    names = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert any("tokenreduce" in name for name in names) == saved
    if saved:
        with pytest.raises(UnsupportedCallError, match=r"ModulesToSaveWrapper.*save_pretrained"):
            handle.save(tmp_path / "own")
        handle.scale(0.5)
        assert handle.stacks["vision"].reducer.reducer.keep == pytest.approx(0.85)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_was_trained_acts_and_stays_after_unloading(tmp_path):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8))
    handle = tokenreduce.attach(model, "dynamicvit", layers=[1, 2], keep=0.7)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["tokenreduce"])
    lora, x = peft.get_peft_model(model, config), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = lora.eval()(x).logits
        for name, weight in lora.named_parameters():
            if ".tokenreduce.modules_to_save." in name:
                weight.add_(torch.randn_like(weight))
        after = lora(x).logits
        assert not torch.allclose(after, before)
        whole = lora.merge_and_unload()
        torch.testing.assert_close(whole(x).logits, after, atol=1e-5, rtol=1e-4)
        handle.save(tmp_path)
