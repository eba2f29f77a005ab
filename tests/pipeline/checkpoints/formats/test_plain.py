"""State dicts of transformers in files of people's own training loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.checkpoints.formats import single_file
from tests.pipeline.checkpoints.formats.reference import (
    VOCABULARY,
    assert_same_losses,
    drawn,
    refusal,
    resident_of,
    tokens,
)

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip


def model(**changes: Any) -> nn.Module:
    return drawn(AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA | changes)))


def state_of(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: one for name, one in module.state_dict().items()}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", ""])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_fsdp_wrapped_module.", "net.llm."])
def test_a_state_dict_is_read(tmp_path: Path, key: str, prefix: str) -> None:
    llama = model()
    state = state_of(llama, prefix)
    content = {key: state, "step": 5, "optimizer": {"state": {}}} if key else state
    torch.save(content, tmp_path / "best.pt")
    assert_same_losses(resident_of(tmp_path, LLAMA), lambda ids: llama(ids).logits, tokens())


def test_a_tied_model_without_its_head_is_read(tmp_path: Path) -> None:
    llama = model(tie_word_embeddings=True)
    state = {name: one for name, one in state_of(llama).items() if name != "lm_head.weight"}
    torch.save({"model": state}, tmp_path / "best.pth")
    resident = resident_of(tmp_path, LLAMA | {"tie_word_embeddings": True})
    assert_same_losses(resident, lambda ids: llama(ids).logits, tokens())


def test_numbers_of_half_precision_are_read(tmp_path: Path) -> None:
    llama = model()
    for one in llama.parameters():
        one.data = one.data.bfloat16().float()
    state = {name: one.bfloat16() for name, one in state_of(llama).items()}
    torch.save({"model": state}, tmp_path / "best.pt")
    assert_same_losses(resident_of(tmp_path, LLAMA), lambda ids: llama(ids).logits, tokens())


def test_without_a_config_it_is_refused(tmp_path: Path) -> None:
    torch.save({"model": state_of(model())}, tmp_path / "best.pt")
    assert "no config.json says which model it is of" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"loss": [1.0, 2.0]}, [1, 2], "text", None, {"model": {"a": 1}}, {}, {"model": {}},
        {"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, torch.ones(3),
    ],
)  # fmt: skip
def test_other_contents_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "best.pt")
    assert not single_file.recognises(content)
    assert "expected a state dict" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["ckpt.pt"], ["ckpt.pt"]),
        (["lit_model.pth", "model_config.yaml", "tokenizer.json"], ["lit_model.pth"]),
        (["model_001000.pt", "meta_001000.json", "optim_001000_rank0.pt"], ["model_001000.pt"]),
        (["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "scaler.pt"], []),
        (["a.pt", "b.pt"], []),
        (["mp_rank_00_model_states.pt"], []),
        (["consolidated.00.pth"], []),
        (["global_step1/a.pt"], []),
        ([], []),
    ],
)
def test_the_file_with_weights_is_told_from_others(names: list[str], found: list[str]) -> None:
    assert single_file.weights(names) == found
