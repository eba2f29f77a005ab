"""Checkpoints of GPT-NeoX, in the layout of its tools/ckpts/convert_neox_to_hf.py.

GPT-NeoX is in no package index: the files are written here from a model of transformers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from s3fs import S3FileSystem
from torch import Tensor

from tests.pipeline.checkpoints.formats.models import assert_same, failure_of, tiny, weights_of

LAYERS = 2


def layers_of(model: Any, devices: int) -> list[dict[int, dict[str, Tensor]]]:
    """Return, for each device, the tensors of each of GPT-NeoX's layers by name."""
    state: Mapping[str, Tensor] = model.state_dict()
    found: list[dict[int, dict[str, Tensor]]] = [{} for _ in range(devices)]

    def put(layer: int, name: str, parts: Any) -> None:
        for device, part in zip(found, parts, strict=True):
            device.setdefault(layer, {})[name] = part.clone()

    embedding, head = state["gpt_neox.embed_in.weight"], state["lm_head.weight"]
    put(0, "word_embeddings.weight", embedding.chunk(devices))
    put(LAYERS + 4, "final_linear.weight", head.chunk(devices))
    for kind in ("weight", "bias"):
        whole = state[f"gpt_neox.final_layer_norm.{kind}"]
        put(LAYERS + 3, f"norm.{kind}", [whole] * devices)
    for layer in range(LAYERS):
        prefix = f"gpt_neox.layers.{layer}."
        for name in (name.removeprefix(prefix) for name in state if name.startswith(prefix)):
            whole = state[prefix + name]
            if name.startswith(("attention.query_key_value", "mlp.dense_h_to_4h")):
                parts = list(whole.chunk(devices))
            elif name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight"):
                parts = list(whole.chunk(devices, dim=1))
            elif name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
                parts = [whole] + [torch.zeros_like(whole)] * (devices - 1)
            else:
                parts = [whole] * devices
            put(layer + 2, name, parts)
        put(layer + 2, "attention.rotary_emb.inv_freq", [torch.ones(2)] * devices)
    return found


def neox(**settings: object) -> Any:
    model = tiny("gpt_neox", vocab_size=32, tie_word_embeddings=False, **settings)
    for parameter in model.parameters():  # biases and norms too
        torch.nn.init.normal_(parameter, std=0.25)
    return model


def pipelined(run: Path, devices: int) -> Any:
    """Write a file for each layer and device, as with pipeline parallelism; return the model."""
    model, step = neox(), run / "global_step100"
    step.mkdir(parents=True)
    model.config.save_pretrained(run)
    for number, device in enumerate(layers_of(model, devices)):
        for layer, tensors in device.items():
            torch.save(tensors, step / f"layer_{layer:02d}-model_{number:02d}-model_states.pt")
        torch.save({"args": {}}, step / f"mp_rank_{number:02d}_model_states.pt")
    return model


@pytest.mark.parametrize("devices", [1, 2])
def test_the_layers_of_all_devices_are_joined(devices: int, tmp_path: Path) -> None:
    model = pipelined(tmp_path / "run", devices)
    assert_same(weights_of(tmp_path / "run"), model.state_dict())


def test_s3_gives_the_same(tmp_path: Path, s3: object) -> None:
    model = pipelined(tmp_path / "run", 2)
    S3FileSystem().put(str(tmp_path / "run"), "runs/here", recursive=True)
    assert_same(weights_of("s3://runs/here"), model.state_dict())


@pytest.mark.parametrize("devices", [1, 2])
def test_all_layers_in_one_file_are_read(devices: int, tmp_path: Path) -> None:
    model, step = neox(), tmp_path / "run" / "global_step100"
    step.mkdir(parents=True)
    model.config.save_pretrained(tmp_path / "run")
    for number, device in enumerate(layers_of(model, devices)):
        module = {
            f"sequential.{layer}.{name}": tensor
            for layer, tensors in device.items()
            for name, tensor in tensors.items()
        }
        torch.save({"module": module}, step / f"mp_rank_{number:02d}_model_states.pt")
    assert_same(weights_of(tmp_path / "run"), model.state_dict())


@pytest.mark.parametrize("device", [0, 1])
def test_a_missing_layer_is_named(device: int, tmp_path: Path) -> None:
    pipelined(tmp_path / "run", 2)
    (tmp_path / f"run/global_step100/layer_03-model_{device:02}-model_states.pt").unlink()
    assert "do not have the same tensors (3.input_layernorm" in failure_of(tmp_path / "run")


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    pipelined(tmp_path / "run", 2)
    for file in (tmp_path / "run/global_step100").glob("layer_*-model_00-*"):
        file.unlink()
    assert "the layers of the devices 1, expected" in failure_of(tmp_path / "run")


def test_another_model_is_refused(tmp_path: Path) -> None:
    pipelined(tmp_path / "run", 1)
    tiny("llama").config.save_pretrained(tmp_path / "run")
    assert "expected gpt_neox: convert it with GPT-NeoX's" in failure_of(tmp_path / "run")


def test_names_of_another_trainer_are_refused(tmp_path: Path) -> None:
    pipelined(tmp_path / "run", 1)
    file = tmp_path / "run/global_step100/layer_02-model_00-model_states.pt"
    torch.save({"self_attention.dense.weight": torch.ones(2, 2)}, file)
    sentence = failure_of(tmp_path / "run")
    assert "self_attention.dense.weight" in sentence and "convert_neox_to_hf.py" in sentence
