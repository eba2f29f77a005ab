"""Files whose names give no step, with the step inside them, on every kind of storage."""

import os
import time
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.checkpoints import list_run
from pipeline.checkpoints.fetch import Copies
from pipeline.errors import InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.test_s3 import upload

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8}


def nanogpt(file: Path, step: object, seed: int = 0) -> None:
    """Write a file of nanoGPT: its linear layers are stored as nn.Linear, GPT-2's as Conv1D."""
    torch.manual_seed(seed)
    state = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=16, **SIZES)).state_dict()
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    model = {name: one.T.clone() if name.endswith(linear) else one for name, one in state.items()}
    args = {**SIZES, "block_size": 16, "bias": True, "vocab_size": 31, "dropout": 0.0}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model, "model_args": args, "iter_num": step}, file)
    os.utime(file, (time.time() - 600,) * 2)


@pytest.fixture(params=["local", "s3", "hub"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a run with nanoGPT's own names of files."""
    run = tmp_path / "run"
    nanogpt(run / "ckpt.pt", 2000)
    nanogpt(run / "best.pt", 1500, seed=1)
    torch.save({"lr": 0.1}, run / "notes.pt")
    if request.param == "s3":
        request.getfixturevalue("s3")
        return upload(run)
    if request.param == "hub":
        request.getfixturevalue("hub").add_run("owner/name", run)
        return "hf://owner/name"
    return str(run)


def test_the_step_inside_a_file_counts_where_no_name_gives_one(address: str) -> None:
    listed = list_run(address)
    assert [(one.step, Path(one.uri).name) for one in listed.checkpoints] == [
        (1500, "best.pt"),
        (2000, "ckpt.pt"),
    ]
    assert sorted(listed.notes)[-2:] == [
        "best.pt: its step is the one inside it",
        "ckpt.pt: its step is the one inside it",
    ]
    assert [one.name for one in listed.left_out] == ["notes.pt"]
    with Copies().of(listed.checkpoints[1]) as copy:
        config = copy.config
        weights = copy.read(lambda parts: read_weights(parts, config))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=16, **SIZES))
    assert torch.equal(weights["transformer.wte.weight"], model.transformer.wte.weight)


def test_names_that_give_steps_count_first(tmp_path: Path) -> None:
    nanogpt(tmp_path / "ckpt_100.pt", 100)
    nanogpt(tmp_path / "ckpt.pt", 200)
    listed = list_run(str(tmp_path))
    assert [one.step for one in listed.checkpoints] == [100]
    assert [one.name for one in listed.left_out] == ["ckpt.pt"]


@pytest.mark.parametrize("step", [-1, 1.5, "2000", None])
def test_a_file_that_states_no_step_is_refused(tmp_path: Path, step: object) -> None:
    nanogpt(tmp_path / "ckpt.pt", step)
    with pytest.raises(InputError, match=r"found ckpt\.pt, whose names do not give their step"):
        list_run(str(tmp_path))


def test_two_files_of_one_step_are_refused(tmp_path: Path) -> None:
    nanogpt(tmp_path / "ckpt.pt", 2000)
    nanogpt(tmp_path / "best.pt", 2000, seed=1)
    with pytest.raises(InputError, match=r"'\w+\.pt' and '\w+\.pt' hold step 2000"):
        list_run(str(tmp_path))
