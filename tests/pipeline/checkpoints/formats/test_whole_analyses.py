"""Whole analyses of runs in these formats: on a disk, S3 and the Hub, with the source's losses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem

from pipeline import Analysis, analyze, audit, list_checkpoints, open_run
from tests.pipeline.checkpoints.conftest import *  # noqa: F403 (its fixtures)
from tests.pipeline.checkpoints.formats import test_llama2c as llama2c
from tests.pipeline.checkpoints.formats import test_nanochat as nanochat
from tests.pipeline.checkpoints.formats import test_nanogpt as nanogpt
from tests.pipeline.checkpoints.formats import test_plain as plain
from tests.pipeline.checkpoints.formats.reference import drawn, losses, tokens
from tests.pipeline.checkpoints.formats.test_written_by_libraries import DATA
from tests.pipeline.checkpoints.servers import Hub, Proxy

MEASURES = {"token_loss": {"early_token": 3, "late_token": 20}, "weight_norm": {}}
WRITERS: dict[str, tuple[Callable, Callable]] = {
    "nanogpt": (nanogpt.GPT, nanogpt.saved),
    "llama2c": (llama2c.Transformer, llama2c.saved),
    "nanochat": (nanochat.GPT, nanochat.saved),
}


def analysed(uri: str, ids: torch.Tensor, store: Path) -> np.ndarray:
    """Return the losses that an analysis stores."""
    array = store.with_suffix(".npy")
    np.save(array, ids.numpy())
    text = {"kind": "array", "path": str(array), "sequences": len(ids), "length": ids.shape[1]}
    analysis = Analysis.model_validate(
        {"checkpoints": uri, "store": str(store), "measures": MEASURES, "inputs": {"text": text}}
    )
    summary = analyze(analysis)
    assert not summary.failed, summary.failed
    return open_run(str(store))["token_loss"]["loss"].values


def two_steps(folder: Path, name: str) -> tuple[Path, list[torch.Tensor]]:
    """Write a run of two checkpoints; return it with the losses of the model that was saved."""
    model, save = WRITERS[name]
    expected = []
    for step in (100, 200):
        (folder / f"step-{step}").mkdir(parents=True)
        module = drawn(model(), seed=step)
        save(folder / f"step-{step}", module)
        expected.append(losses(module.eval(), tokens()))
    return folder, expected


def assert_losses(found: np.ndarray, expected: list[torch.Tensor]) -> None:
    assert np.abs(found - np.stack(expected)).max() < 1e-5


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_run_on_disk(tmp_path: Path, name: str) -> None:
    run, expected = two_steps(tmp_path / "run", name)
    assert [one.step for one in list_checkpoints(str(run))] == [100, 200]
    assert not audit(str(run)).faults
    assert_losses(analysed(str(run), tokens(), tmp_path / "store.zarr"), expected)


@pytest.mark.parametrize("name", ["nanogpt", "nanochat"])
def test_a_run_on_s3(tmp_path: Path, name: str, s3: Proxy) -> None:
    run, expected = two_steps(tmp_path / "run", name)
    S3FileSystem(use_listings_cache=False).put(str(run), "runs/a", recursive=True)
    assert_losses(analysed("s3://runs/a", tokens(), tmp_path / "store.zarr"), expected)


@pytest.mark.parametrize("name", ["nanogpt", "nanochat"])
def test_a_run_on_the_hub(tmp_path: Path, name: str, hub: Hub) -> None:
    run, expected = two_steps(tmp_path / "run", name)
    hub.add_run("owner/name", run)
    assert_losses(analysed("hf://owner/name", tokens(), tmp_path / "store.zarr"), expected)


def test_a_run_of_single_files_of_nanochat(tmp_path: Path) -> None:
    """Its own folder: the files of all steps side by side, with the states of optimizers."""
    folders, expected = two_steps(tmp_path / "folders", "nanochat")
    run = tmp_path / "run"
    run.mkdir()
    for step in (100, 200):
        for file in (folders / f"step-{step}").iterdir():
            file.rename(run / file.name.replace("001000", f"{step:06}"))
    assert [one.step for one in list_checkpoints(str(run))] == [100, 200]
    assert_losses(analysed(str(run), tokens(), tmp_path / "store.zarr"), expected)


def test_a_run_of_single_files_with_one_config(tmp_path: Path) -> None:
    expected = []
    for step in (100, 200):
        llama = drawn(plain.model(), step)
        torch.save({"model": plain.state_of(llama)}, tmp_path / f"checkpoint_{step}.pt")
        expected.append(losses(lambda ids, of=llama: of(ids).logits, tokens()))
    (tmp_path / "config.json").write_text(json.dumps(plain.LLAMA))
    assert_losses(analysed(str(tmp_path), tokens(), tmp_path / "store.zarr"), expected)


@pytest.mark.parametrize("name", ["meta-two-files", "composer"])
def test_files_of_their_libraries(tmp_path: Path, name: str) -> None:
    shutil.copytree(DATA / name, tmp_path / "run" / "step-1")
    written = json.loads((DATA / name / "losses.json").read_text())
    found = analysed(
        str(tmp_path / "run"), torch.tensor(written["tokens"]), tmp_path / "store.zarr"
    )
    assert_losses(found, [torch.tensor(written["losses"], dtype=torch.float64)])


def test_a_damaged_checkpoint_fails_alone(tmp_path: Path) -> None:
    run, _ = two_steps(tmp_path / "run", "nanogpt")
    file = run / "step-100" / "ckpt.pt"
    file.write_bytes(file.read_bytes()[:-500])
    analysis = Analysis.model_validate(
        {"checkpoints": str(run), "store": str(tmp_path / "store.zarr"),
         "measures": {"weight_norm": {}}}
    )  # fmt: skip
    summary = analyze(analysis)
    assert list(summary.failed) == [100] and summary.computed == [200]
    assert "ckpt.pt" in summary.failed[100]


def test_a_large_file_is_described_by_a_few_requests(tmp_path: Path, s3: Proxy) -> None:
    """Its config is made from some kilobytes; weights are fetched once, to be computed with."""
    run, _ = two_steps(tmp_path / "run", "nanogpt")
    for step in (100, 200):
        file = run / f"step-{step}" / "ckpt.pt"
        content = torch.load(file, weights_only=True)
        torch.save(content | {"more": torch.ones(2**20)}, file)
    S3FileSystem(use_listings_cache=False).put(str(run), "runs/a", recursive=True)
    s3.forget()
    assert len(list_checkpoints("s3://runs/a")) == 2
    assert s3.bytes_sent < 2**20
