"""Checkpoints of DeepSpeed, from files that it wrote itself (tests/data/sharded)."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.checkpoints.formats.deepspeed import weights
from tests.pipeline.checkpoints.formats.models import (
    assert_same,
    failure_of,
    losses_by,
    losses_of,
    unpacked,
    weights_of,
)

KINDS = ("zero2-bf16", "zero3-bf16")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of DeepSpeed's files: of stage 2, and of stage 3 of two processes."""
    return unpacked(tmp_path_factory.mktemp("written")) / "deepspeed"


@pytest.fixture
def partitioned(written: Path, tmp_path: Path) -> Path:
    """Return the run of stage 3, to be damaged."""
    return shutil.copytree(written / "zero3-bf16", tmp_path / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_deepspeeds_own(kind: str, written: Path) -> None:
    """Stage 3 has a frozen and a tied parameter, and sizes that two processes cannot share."""
    expected = torch.load(written / kind / "weights.pt", weights_only=True)
    assert_same(weights_of(written / kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_s3_gives_the_same(kind: str, written: Path, s3: object) -> None:
    S3FileSystem().put(str(written / kind), "runs/here", recursive=True)
    expected = torch.load(written / kind / "weights.pt", weights_only=True)
    assert_same(weights_of("s3://runs/here"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_deepspeeds_weights(kind: str, written: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(written / kind))
    model.load_state_dict(torch.load(written / kind / "weights.pt", weights_only=True))
    losses = losses_of(written / kind, tmp_path / "store.zarr")
    np.testing.assert_allclose(losses[0], losses_by(model.eval()), atol=1e-5)


def test_a_trainers_checkpoint_has_the_files_one_level_down(written: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(written / "zero3-bf16", run / "checkpoint-2")
    (run / "checkpoint-2" / "weights.pt").unlink()
    (run / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert_same(weights_of(run), weights_of(written / "zero3-bf16"))


def _lose(name: str) -> Callable[[Path], None]:
    def lose(folder: Path) -> None:
        for file in folder.glob(name):
            file.unlink()

    return lose


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_lose("*rank_1_*optim*"), "one of 2 parts of the model, beside 1 of the optimizer"),
        (_lose("*rank_0_*model*"), "has the parts of the model of the processes 1, expected"),
        (_lose("*optim*"), "has the states of the optimizer of no process, expected"),
    ],
)
def test_a_missing_part_is_named(
    damage: Callable[[Path], None], says: str, partitioned: Path
) -> None:
    damage(partitioned / "global_step2")
    assert says in failure_of(partitioned)


def test_shapes_that_do_not_fit_the_parts_are_refused(partitioned: Path) -> None:
    file = next((partitioned / "global_step2").glob("*rank_0_*model*"))
    content = torch.load(file, weights_only=True)
    content["param_shapes"][0]["model.embed_tokens.weight"] = torch.Size([10**6, 10**6])
    torch.save(content, file)
    assert "numbers in each process" in failure_of(partitioned)


def test_no_file_runs_code(partitioned: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'trace'}",)

    for file in sorted((partitioned / "global_step2").iterdir()):
        content = file.read_bytes()
        torch.save({"module": Hostile(), "optimizer_state_dict": Hostile()}, file)
        assert "system, and files that could run code are refused" in failure_of(partitioned)
        file.write_bytes(content)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_file_that_is_cut_off_is_named(keep: int, partitioned: Path) -> None:
    file = next((partitioned / "global_step2").glob("*rank_1_*optim*"))
    os.truncate(file, keep)
    assert file.name in failure_of(partitioned)


def test_the_parts_of_tensor_parallelism_are_refused(written: Path, tmp_path: Path) -> None:
    run = shutil.copytree(written / "zero2-bf16", tmp_path / "run")
    file = run / "global_step2" / "mp_rank_00_model_states.pt"
    shutil.copy(file, file.with_name("mp_rank_01_model_states.pt"))
    assert "split between devices (tensor parallel)" in failure_of(run)


def test_files_of_several_steps_are_none_of_one() -> None:
    names = [f"global_step{step}/mp_rank_00_model_states.pt" for step in (1, 2)]
    assert weights(names[:1]) == names[:1] and weights(names) == []
