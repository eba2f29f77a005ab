"""Weights are finite floating-point numbers, or are refused by name."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline import Analysis, Summary, analyze, audit, open_run
from pipeline.checkpoints.floats import non_finite, quantisation_in

Weights = dict[str, Tensor]
FIRST = "model.layers.0.self_attn.k_proj.weight"  # of the matrices, in order of names
BNB = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    """Change the matrices of all attention and MLP layers."""
    return lambda weights: {
        name: change(tensor) if name.endswith("proj.weight") else tensor
        for name, tensor in weights.items()
    }


def in_8_bits(matrix: Tensor) -> Tensor:
    return torch.round(matrix / matrix.abs().amax(1, keepdim=True) * 127).to(torch.int8)


def renamed(weights: Weights) -> Weights:
    """Rename weights as GPTQ and AWQ do."""
    packed = {n.replace("proj.weight", "proj.qweight"): t for n, t in weights.items()}
    return {n: t.int() if n.endswith("qweight") else t for n, t in packed.items()}


def with_scales(weights: Weights) -> Weights:
    scales = {n.replace("weight", "SCB"): t[:, 0] for n, t in weights.items() if "q_proj" in n}
    return weights | scales


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    folder = make_run(steps=(1, 2, 3), num_hidden_layers=1)
    np.save(folder.parent / "ids.npy", np.random.default_rng(0).integers(0, 40, (2, 12)))
    return folder


def write(folder: Path, change: Callable[[Weights], Weights], quantisation: Any = None) -> None:
    """Change the weights in a checkpoint, and its config.json."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file({n: t.contiguous() for n, t in weights.items()}, folder / "model.safetensors")
    if quantisation is not None:
        said = json.loads((folder / "config.json").read_text())
        said["quantization_config"] = quantisation
        (folder / "config.json").write_text(json.dumps(said))


def analyzed(run: Path) -> Summary:
    ids = str(run.parent / "ids.npy")
    content = {
        "checkpoints": str(run),
        "store": str(run.parent / "store.zarr"),
        "inputs": {"text": {"kind": "array", "path": ids, "sequences": 2, "length": 12}},
        "measures": {"token_loss": {"early_token": 2, "late_token": 9}},
    }
    return analyze(Analysis.model_validate(content))


@pytest.mark.parametrize(
    ("change", "quantisation", "said"),
    [
        (changed(in_8_bits), BNB, [f"{FIRST} holds int8", ": bitsandbytes 8-bit"]),
        (changed(in_8_bits), None, [f"{FIRST} holds int8 for a floating-point parameter"]),
        (changed(lambda w: w.to(torch.float8_e4m3fn)), None, [f"{FIRST} holds float8_e4m3fn"]),
        (changed(lambda w: w.view(torch.int32)), None, [f"{FIRST} holds int32"]),
        (changed(lambda w: w[:, ::2].to(torch.uint8)), None, [f"{FIRST} holds uint8"]),
        (changed(lambda w: w > 0), None, [f"{FIRST} holds bool"]),
        (changed(lambda w: w.to(torch.complex64)), None, [f"{FIRST} holds complex64"]),
        (renamed, None, ["k_proj.qweight belongs to a quantised weight"]),
        (with_scales, None, ["q_proj.SCB belongs to a quantised weight"]),
        (dict, {"quant_method": "gptq", "bits": 4}, ["quantization_config: gptq 4-bit"]),
    ],
)  # fmt: skip
def test_quantised_weights_are_refused_by_name(
    run: Path, change: Callable[[Weights], Weights], quantisation: Any, said: list[str]
) -> None:
    write(run / "step-2", change, quantisation)
    summary = analyzed(run)
    assert (summary.computed, list(summary.failed)) == ([1, 3], [2])
    faults = [fault for fault in audit(str(run)).faults if fault.step == 2]
    assert [fault.kind for fault in faults] == ["quantised"]
    for told in (summary.failed[2], faults[0].detail):
        assert all(part in told for part in [*said, "give the unquantised checkpoint"])
        assert "\n" not in told
    assert open_run(summary.store)["token_loss"].step.values.tolist() == [1, 3]


def test_every_step_quantised_is_each_steps_fault(run: Path) -> None:
    for step in (1, 2, 3):
        write(run / f"step-{step}", changed(in_8_bits), BNB)
    assert list(analyzed(run).failed) == [1, 2, 3]


def test_a_dtype_changed_in_the_header_is_refused(run: Path) -> None:
    file = run / "step-2" / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["lm_head.weight"]["dtype"] = "I32"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    summary = analyzed(run)
    assert (summary.computed, list(summary.failed)) == ([1, 3], [2])
    assert "lm_head.weight holds int32 for a floating-point parameter" in summary.failed[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_8_bits, "holds int8"),
        (lambda w: w.to("meta"), "has no data"),
        (lambda w: w.to_sparse(), "is sparse (sparse_coo)"),
        (lambda w: w.to(torch.complex64), "holds complex64"),
    ],
)
def test_pickles_of_other_tensors_are_refused_by_name(
    run: Path, change: Callable[[Tensor], Tensor], said: str
) -> None:
    file = run / "step-2" / "model.safetensors"
    torch.save(changed(change)(load_file(file)), run / "step-2" / "pytorch_model.bin")
    file.unlink()
    summary = analyzed(run)
    assert (summary.computed, list(summary.failed)) == ([1, 3], [2])
    assert f"{FIRST} {said}" in summary.failed[2] and "\n" not in summary.failed[2]
    if said.startswith("holds"):
        (fault,) = audit(str(run), deep=True).faults
        assert (fault.step, fault.kind) == (2, "quantised") and said in fault.detail


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_dtypes_are_read(run: Path, dtype: torch.dtype) -> None:
    write(run / "step-2", changed(lambda w: w.to(dtype)))
    assert analyzed(run).computed == [1, 2, 3]


def test_buffers_of_old_files_are_no_weights(tmp_path: Path) -> None:
    """As Pythia's files have them: a mask of bools, and a constant that is -inf in float16."""
    shape = AutoConfig.for_model(
        "gpt_neox", vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 40, (2, 12)))
    for step in (1, 2):
        torch.manual_seed(step)
        model = AutoModelForCausalLM.from_config(shape)
        model.config.save_pretrained(tmp_path / "run" / f"step-{step}")
        buffers = {
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 16, 16, dtype=torch.bool),
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-torch.inf).half(),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2).half(),
        }
        file = tmp_path / "run" / f"step-{step}" / "pytorch_model.bin"
        torch.save(model.state_dict() | buffers, file)
    assert analyzed(tmp_path / "run").worked
    assert audit(str(tmp_path / "run"), deep=True).faults == ()


def test_non_finite_numbers_are_counted() -> None:
    large = torch.full((300,), 60_000.0, dtype=torch.float16)  # finite, and their sum is not
    broken = torch.zeros(40, 50)
    broken[3, 4], broken[5, 6], broken[7, 8] = torch.nan, torch.inf, -torch.inf
    found = non_finite({"large": large, "broken": broken, "ids": torch.arange(3)})
    assert found == {"broken": "3 of 2,000"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, ""),
        ({"quantization_config": None}, ""),
        ({"quantization_config": BNB}, "quantization_config: bitsandbytes 8-bit"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config: 4-bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config: fp8"),
        ({"quantization_config": "yes"}, "quantization_config"),
        ({"text_config": {"quantization_config": BNB}}, "quantization_config: bitsandbytes 8-bit"),
    ],
)
def test_what_a_config_says_of_quantisation(config: dict[str, Any], said: str) -> None:
    assert quantisation_in(config) == said
