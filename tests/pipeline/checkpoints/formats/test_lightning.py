"""Checkpoints that pytorch_lightning writes: the losses are those of the model that it trained."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from tests.pipeline.checkpoints.formats.reference import (
    VOCABULARY,
    assert_same_losses,
    drawn,
    refusal,
    resident_of,
    tokens,
)

SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip


def config_of(kind: str) -> PreTrainedConfig:
    ids = {"bos_token_id": None, "eos_token_id": None}
    return AutoConfig.for_model(kind, vocab_size=VOCABULARY, **SIZES[kind], **ids)


class Trained(lightning.LightningModule):
    """A LightningModule as people write them, around a model of transformers."""

    def __init__(self, config: Any, attribute: str = "model", lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        values = config if isinstance(config, PreTrainedConfig) else AutoConfig.for_model(**config)
        self.attribute = attribute
        setattr(self, attribute, drawn(AutoModelForCausalLM.from_config(values)))

    @property
    def inner(self) -> nn.Module:
        return getattr(self, self.attribute)

    def training_step(self, batch: Tensor) -> Tensor:
        return self.inner(input_ids=batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.inner.requires_grad_(True).parameters(), lr=1e-3)


def fitted(folder: Path, module: Trained) -> Path:
    """Train for two steps, and let the Trainer save its checkpoint."""
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    module.train()
    trainer.fit(module, DataLoader(list(tokens()), batch_size=1))
    trainer.save_checkpoint(folder / "epoch=0-step=2.ckpt")
    module.eval()
    return folder


def logits(module: Trained) -> Any:
    return lambda ids: module.inner(ids).logits


@pytest.mark.parametrize("kind", list(SIZES))
@pytest.mark.parametrize("attribute", ["model", "net", "lm"])
def test_losses_are_those_of_the_trained_model(tmp_path: Path, kind: str, attribute: str) -> None:
    module = Trained(config_of(kind).to_dict(), attribute)
    assert_same_losses(resident_of(fitted(tmp_path, module)), logits(module), tokens())


@pytest.mark.parametrize("kind", list(SIZES))
def test_the_config_may_be_an_object_of_transformers(tmp_path: Path, kind: str) -> None:
    module = Trained(config_of(kind))
    assert_same_losses(resident_of(fitted(tmp_path, module)), logits(module), tokens())


def test_hyper_parameters_may_be_the_config(tmp_path: Path) -> None:
    folder = fitted(tmp_path, module := Trained(config_of("gpt2").to_dict()))
    file = next(folder.glob("*.ckpt"))
    content = torch.load(file, weights_only=False)
    content["hyper_parameters"] = argparse.Namespace(**content["hyper_parameters"]["config"])
    torch.save(content, file)
    assert_same_losses(resident_of(folder), logits(module), tokens())


def test_settings_within_a_config_are_its_own(tmp_path: Path) -> None:
    rotations = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
    config = config_of("llama").to_dict() | {"rope_parameters": rotations}
    folder = fitted(tmp_path, module := Trained(config))
    file = next(folder.glob("*.ckpt"))
    content = torch.load(file, weights_only=False)
    config |= {"rope_parameters": argparse.Namespace(**rotations)}
    content["hyper_parameters"]["config"] = argparse.Namespace(**config)
    torch.save(content, file)
    assert_same_losses(resident_of(folder), logits(module), tokens())


def test_without_a_config_the_sentence_says_where_to_put_one(tmp_path: Path) -> None:
    module = Trained(config_of("llama").to_dict())
    fitted(tmp_path, module)
    file = next(tmp_path.glob("*.ckpt"))
    content = torch.load(file, weights_only=False)
    config = content["hyper_parameters"].pop("config")
    torch.save(content, file)
    message = refusal(tmp_path)
    assert "attribute, lr" in message and "config.json" in message
    assert_same_losses(resident_of(tmp_path, config), logits(module), tokens())


def test_a_compiled_model_is_read(tmp_path: Path) -> None:
    module = Trained(config_of("llama").to_dict())
    fitted(tmp_path, module)
    file = next(tmp_path.glob("*.ckpt"))
    content = torch.load(file, weights_only=False)
    content["state_dict"] = {
        name.replace("model.", "model._orig_mod.", 1): one
        for name, one in content["state_dict"].items()
    }
    torch.save(content, file)
    assert_same_losses(resident_of(tmp_path), logits(module), tokens())
