"""The .pth and .pt files of a run on S3 or the Hub: downloaded, converted, and read as on disk."""

from pathlib import Path

import pytest
import torch
from s3fs import S3FileSystem

from pipeline.auditing import audit
from pipeline.checkpoints import converted, list_checkpoints
from tests.pipeline.checkpoints.own_models import Bare, drawn, loss_of
from tests.pipeline.checkpoints.test_own_names import MODELS, read_loss, refusal

GIVEN = MODELS["bare"][1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (500, 1000):
        saved = {"model_state_dict": drawn(Bare(), seed=step).state_dict(), "step": step}
        torch.save(saved, folder / f"step_{step:06d}.pt")
    (folder / "notes.txt").write_text("not a checkpoint")
    return folder


def upload(folder: Path) -> str:
    S3FileSystem(use_listings_cache=False).put(str(folder), "runs/own", recursive=True)
    return "s3://runs/own"


@pytest.fixture
def remote(run: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return upload(run)
    hub = request.getfixturevalue("hub")
    hub.add_run("owner/own", run)
    return "hf://owner/own"


@pytest.mark.parametrize("remote", ["s3", "hub"], indirect=True)
def test_the_files_of_a_remote_run_have_their_own_losses(remote: str) -> None:
    assert [one.step for one in list_checkpoints(remote, model=GIVEN)] == [500, 1000]
    for step in (500, 1000):
        expected = loss_of(drawn(Bare(), seed=step))
        assert read_loss(remote, GIVEN, step) == pytest.approx(expected, rel=1e-7)
    assert not audit(remote, model=GIVEN).faults


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_what_is_not_downloaded_is_said(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3://runs/own/step_000500.pt: holds no weights" in refusal(remote, {"act_fn": "relu"})
    monkeypatch.setattr(converted, "MOST_BYTES", 1000)
    said = refusal(remote, GIVEN)
    assert "its 2 .pth and .pt files have " in said and "at most 1,000 are downloaded" in said


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_a_file_that_was_replaced_is_downloaded_again(remote: str, run: Path) -> None:
    read_loss(remote, GIVEN)
    saved = {"model_state_dict": drawn(Bare(), seed=7).state_dict(), "step": 1000}
    torch.save(saved, run / "step_001000.pt")
    S3FileSystem(use_listings_cache=False).put(
        str(run / "step_001000.pt"), "runs/own/step_001000.pt"
    )
    assert read_loss(remote, GIVEN) == pytest.approx(loss_of(drawn(Bare(), seed=7)), rel=1e-7)


def test_a_remote_run_without_such_files_is_refused(s3: None, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    S3FileSystem(use_listings_cache=False).put(str(tmp_path / "a.txt"), "runs/none/a.txt")
    assert "there are none directly in it" in refusal("s3://runs/none", GIVEN)
