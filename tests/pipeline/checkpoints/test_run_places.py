"""Checkpoints below a run's folder, in caches, behind links and in files; on disk and on S3."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download

from pipeline.auditing import audit
from pipeline.checkpoints import RunLayout, list_checkpoints, list_run
from pipeline.checkpoints import s3 as s3_place
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.metadata import metadata_folder
from pipeline.checkpoints.places import listed_folder
from pipeline.checkpoints.weight_files import local_parts
from pipeline.errors import CheckpointError, InputError
from tests.pipeline.checkpoints.conftest import CONFIG
from tests.pipeline.checkpoints.test_s3 import upload

LONG_AGO = (1e9, 1e9)


def settled(run: Path) -> Path:
    """Make the files of a run look as if nothing had changed for long."""
    for path in run.rglob("*"):
        os.utime(path, LONG_AGO, follow_symlinks=False)
    return run


@pytest.fixture(params=["disk", "s3"])
def address(request, monkeypatch):
    """Return a function that puts a run on a storage, and returns its address there."""
    if request.param == "disk":
        return lambda run: str(settled(run))
    request.getfixturevalue("s3")
    monkeypatch.setattr(s3_place, "now", lambda uri: time.time() + 600)
    return upload


def found(uri: str, **layout) -> dict[int, str]:
    listing = list_run(uri, layout=RunLayout(**layout))
    return {c.step: c.uri.removeprefix(uri).lstrip("/") for c in listing.checkpoints}


def test_checkpoints_one_level_down_are_found_and_said(tmp_path, write_checkpoint, address):
    for step in (1, 2):
        write_checkpoint(tmp_path / f"run/checkpoints/step-{step}", step)
    (tmp_path / "run/logs").mkdir()
    (tmp_path / "run/logs/events.txt").write_text("x")
    uri = address(tmp_path / "run")
    assert found(uri) == {1: "checkpoints/step-1", 2: "checkpoints/step-2"}
    assert list_run(uri).notes == (f"the checkpoints are in {uri}/checkpoints",)
    assert audit(uri).notes == (f"the checkpoints are in {uri}/checkpoints",)


def test_several_folders_with_checkpoints_are_refused(tmp_path, write_checkpoint, address):
    for run in ("a", "b"):
        write_checkpoint(tmp_path / f"runs/{run}/step-1")
    with pytest.raises(InputError, match="2 folders in it do: a, b; give one of them"):
        list_run(address(tmp_path / "runs"))


def test_a_run_with_checkpoints_of_its_own_is_not_searched_below(
    tmp_path, write_checkpoint, address
):
    write_checkpoint(tmp_path / "run/step-1")
    write_checkpoint(tmp_path / "run/checkpoints/step-2")
    assert found(address(tmp_path / "run")) == {1: "step-1"}


@pytest.mark.parametrize(("names", "inside"), [("step-", "hf"), ("global_step_", "actor/hf")])
def test_the_model_is_found_within_a_checkpoints_folder(
    tmp_path, write_checkpoint, address, names, inside
):
    for step in (1, 2):
        write_checkpoint(tmp_path / f"run/{names}{step}/{inside}", step)
        (tmp_path / f"run/{names}{step}/data.pt").write_bytes(b"state of the data loader")
    uri = address(tmp_path / "run")
    assert found(uri) == {step: f"{names}{step}/{inside}" for step in (1, 2)}
    assert list_run(uri).notes[0].endswith(f"within those of the checkpoints: {inside}")
    assert [c.digest for c in list_checkpoints(uri)] == [None, None] or "s3" in uri
    assert not audit(uri).faults


def test_a_hidden_folder_in_a_checkpoints_is_not_the_models(tmp_path, write_checkpoint, address):
    write_checkpoint(tmp_path / "run/step-1/hf", 1)
    write_checkpoint(tmp_path / "run/step-1/.trash/hf", 2)
    assert found(address(tmp_path / "run")) == {1: "step-1/hf"}


def test_a_nested_config_is_found_beside_weights_of_another_name(tmp_path, address):
    (tmp_path / "run/step-1").mkdir(parents=True)
    write_files(tmp_path / "run/step-1/actor", "odd.bin")
    (tmp_path / "run/step-1/actor/config.json").write_text(json.dumps(CONFIG))
    assert found(address(tmp_path / "run")) == {1: "step-1/actor"}


def test_a_number_alone_on_s3_is_told_the_two_ways_to_read_it(s3, tmp_path):
    uri = upload(write_files(tmp_path / "run", "1000.pt"))
    with pytest.raises(InputError, match=r"with `model`, .* as in `names: \"\{step\}\"`") as error:
        list_run(uri)
    assert "or files named N.pth;" not in str(error.value)
    assert found(uri, names="{step}") == {1000: "1000.pt"}


def test_of_two_models_in_a_folder_one_has_to_be_chosen(tmp_path, write_checkpoint, address):
    for step in (1, 2):
        for role in ("actor", "critic"):
            write_checkpoint(tmp_path / f"run/global_step_{step}/{role}/huggingface", step)
    uri = address(tmp_path / "run")
    expected = "2 folders in it hold a model, actor/huggingface, critic/huggingface: choose one"
    with pytest.raises(InputError, match=expected):
        list_run(uri)
    assert found(uri, names="global_step_{step}/critic/huggingface") == {
        step: f"global_step_{step}/critic/huggingface" for step in (1, 2)
    }


def test_an_empty_folder_is_left_out(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "step-1")
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-3/nested").mkdir(parents=True)
    told = {one.name: (one.kind, one.reason) for one in list_run(str(tmp_path)).left_out}
    assert told == dict.fromkeys(("step-2", "step-3"), ("no weights", "it is empty"))


def test_a_folder_that_may_not_be_read_is_not_taken_for_empty(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "step-1")
    (tmp_path / "step-0").mkdir()
    (tmp_path / "step-0").chmod(0)
    try:
        if os.access(tmp_path / "step-0", os.R_OK):
            pytest.skip("this user may read everything")
        assert [c.step for c in list_checkpoints(str(tmp_path))] == [0, 1]
    finally:
        (tmp_path / "step-0").chmod(0o700)


# A config.json elsewhere.


def without_configs(run: Path, write_checkpoint) -> Path:
    """Write a run as accelerate's save_state does: weights in folders, one config.json beside."""
    for step in (1, 2):
        folder = write_checkpoint(run / f"step_{step}", step)
        shutil.move(folder / "config.json", run / "config.json")
    return run


def test_a_config_at_the_runs_root_is_that_of_checkpoints_without_one(
    tmp_path, write_checkpoint, address
):
    uri = address(without_configs(tmp_path / "run", write_checkpoint))
    listing = list_run(uri)
    assert listing.notes == (f"2 checkpoints without a config.json use {uri}/config.json",)
    for checkpoint in listing.checkpoints:
        assert read_config(checkpoint.uri, checkpoint.files) == CONFIG
    assert not audit(uri).faults


def test_a_config_beside_the_folder_of_checkpoints_is_found_too(
    tmp_path, write_checkpoint, address
):
    without_configs(tmp_path / "run/checkpoints", write_checkpoint)
    (tmp_path / "run/checkpoints/config.json").rename(tmp_path / "run/config.json")
    (checkpoint, _) = list_checkpoints(uri := address(tmp_path / "run"))
    assert checkpoint.files is not None and checkpoint.files["config.json"].at == uri


def test_a_config_is_given(tmp_path, write_checkpoint, address):
    without_configs(tmp_path / "run", write_checkpoint)
    given = (tmp_path / "run/config.json").rename(tmp_path / "mine.json")
    uri = address(tmp_path / "run")
    with pytest.raises(InputError, match=r"config.json: is missing"):
        read_config(list_checkpoints(uri)[0].uri)
    (checkpoint, _) = list_checkpoints(uri, layout=RunLayout(config=str(given)))
    assert read_config(checkpoint.uri, checkpoint.files) == CONFIG
    kept = metadata_folder(listed_folder(checkpoint))
    assert json.loads((kept / "config.json").read_text()) == CONFIG
    with pytest.raises(InputError, match=rf"config: {given}x: there is no such file"):
        list_checkpoints(uri, layout=RunLayout(config=f"{given}x"))


def test_a_config_of_something_else_is_not_taken(tmp_path, write_checkpoint):
    run = without_configs(tmp_path, write_checkpoint)
    (run / "config.json").write_text('{"learning_rate": 0.1}')
    assert all("config.json" not in (c.files or {}) for c in list_checkpoints(str(run)))


def test_a_checkpoint_keeps_its_own_config(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "step-1")
    other = tmp_path / "config.json"
    other.write_text('{"model_type": "other"}')
    (checkpoint,) = list_checkpoints(str(tmp_path), layout=RunLayout(config=str(other)))
    assert read_config(checkpoint.uri, checkpoint.files) == CONFIG


# Checkpoints that are single files.


def write_files(run: Path, *names: str) -> Path:
    run.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        torch.save({"a": torch.full((2,), number)}, run / name)
    return run


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["ckpt_1000.pt", "ckpt_2000.pt", "optimizer.pt"], [1000, 2000]),
        (["step_010000.pt", "step_020000.pt"], [10_000, 20_000]),
        (["epoch=3-step=100.ckpt", "epoch=4-step=200.ckpt", "last.ckpt"], [100, 200]),
        (["checkpoint_5000.pt", "best.pt"], [5000]),
    ],
)
def test_files_are_checkpoints(tmp_path, address, names, steps):
    uri = address(write_files(tmp_path / "run", *names))
    checkpoints = list_checkpoints(uri)
    assert [c.step for c in checkpoints] == steps
    for checkpoint, name in zip(checkpoints, names, strict=False):
        assert checkpoint.uri == f"{uri}/{name}" and checkpoint.files is not None
        assert list(checkpoint.files) == [name] and checkpoint.files[name].at == uri


def test_nanochats_description_is_a_file_of_its_checkpoint(tmp_path, address):
    write_files(tmp_path / "run", "model_001000.pt", "optim_001000_rank0.pt")
    (tmp_path / "run/meta_001000.json").write_text('{"step": 1000}')
    (tmp_path / "run/meta_002000.json").write_text('{"step": 2000}')
    (checkpoint,) = list_checkpoints(address(tmp_path / "run"))
    assert checkpoint.step == 1000 and checkpoint.files is not None
    assert sorted(checkpoint.files) == ["meta_001000.json", "model_001000.pt"]


def test_a_file_and_a_folder_of_one_step_are_refused(tmp_path, write_checkpoint, address):
    write_checkpoint(tmp_path / "run/step-1000")
    write_files(tmp_path / "run", "ckpt_1000.pt")
    with pytest.raises(InputError, match=r"both 'ckpt_1000.pt' and 'step-1000' hold step 1000"):
        list_run(address(tmp_path / "run"))


def test_a_pattern_gives_the_steps_of_files(tmp_path, address):
    uri = address(write_files(tmp_path / "run", "mine-10.pt", "mine-20.pt"))
    assert found(uri, names="mine-{step}") == {10: "mine-10.pt", 20: "mine-20.pt"}
    assert found(uri, names="mine-{epoch}.pt") == {10: "mine-10.pt", 20: "mine-20.pt"}


def test_another_pattern_is_told_as_the_remedy(tmp_path, write_checkpoint, address):
    write_checkpoint(tmp_path / "run/my-run-10")
    uri = address(tmp_path / "run")
    with pytest.raises(InputError, match=r'as in `names: "my-run-\{step\}"`'):
        list_run(uri)
    with pytest.raises(InputError, match=r"named 'your-\{step\}', the given `names`"):
        list_run(uri, layout=RunLayout(names="your-{step}"))
    assert found(uri, names="my-run-{step}") == {10: "my-run-10"}


# Links, and the cache of the Hub.


def test_links_out_of_a_run_are_followed_if_that_is_asked_for(tmp_path, write_checkpoint):
    whole = write_checkpoint(tmp_path / "elsewhere/any", 1)
    other = write_checkpoint(tmp_path / "elsewhere/other", 2)
    (other / "model.safetensors").rename(other / "SHA256-abc")
    run = tmp_path / "run"
    (run / "step-2").mkdir(parents=True)
    (run / "step-1").symlink_to(whole)
    (run / "step-2/config.json").symlink_to(other / "config.json")
    (run / "step-2/model.safetensors").symlink_to(other / "SHA256-abc")
    for checkpoint in list_checkpoints(str(run)):
        with pytest.raises(CheckpointError, match=r"leads out of the run.*`follow_links: true`"):
            local_parts(listed_folder(checkpoint))
    first, second = list_checkpoints(str(run), layout=RunLayout(follow_links=True))
    assert first.uri == str(whole)
    (file,) = local_parts(listed_folder(second)).files.values()
    assert file.samefile(other / "SHA256-abc") and file.name == "model.safetensors"
    assert read_config(second.uri, second.files) == CONFIG
    assert not audit(str(run), layout=RunLayout(follow_links=True)).faults
    (run / "step-2/model.safetensors").unlink()
    (run / "step-2/model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="no longer leads to"):
        local_parts(listed_folder(second))


def test_a_file_that_is_a_link_out_of_the_run_is_left_out_or_followed(tmp_path):
    write_files(tmp_path / "elsewhere", "weights.pt")
    run = write_files(tmp_path / "run", "ckpt_1.pt")
    (run / "ckpt_2.pt").symlink_to(tmp_path / "elsewhere/weights.pt")
    settled(run)
    (told,) = list_run(str(run)).left_out
    assert told.name == "ckpt_2.pt" and "`follow_links: true`" in told.reason
    _, followed = list_checkpoints(str(run), layout=RunLayout(follow_links=True))
    assert followed.files is not None
    assert followed.files["ckpt_2.pt"].at == str(tmp_path / "elsewhere")
    assert followed.files["ckpt_2.pt"].real_name == "weights.pt"


def test_a_cache_of_the_hub_is_read_as_huggingface_hub_writes_it(hub, tmp_path, write_checkpoint):
    for step in (1, 2):
        write_checkpoint(tmp_path / f"run/step{step}", step)
    hub.add_run("owner/name", tmp_path / "run")
    for step in (1, 2):
        for name in ("config.json", "model.safetensors"):
            hf_hub_download("owner/name", name, revision=f"step{step}", endpoint=hub.url,
                            cache_dir=tmp_path / "hf")  # fmt: skip
    repository = tmp_path / "hf/models--owner--name"
    first, second = list_checkpoints(str(repository))
    assert (first.step, second.step) == (1, 2)
    assert Path(first.uri).parent == repository / "snapshots"
    (file,) = local_parts(listed_folder(first)).files.values()
    assert file.is_symlink() and read_config(first.uri, first.files) == CONFIG
    assert not audit(str(repository)).faults
    (repository / "refs/step2").unlink()
    (told,) = list_run(str(repository)).left_out
    assert "no branch or tag in this cache leads to the commit" in told.reason


def test_a_cache_whose_refs_are_damaged_is_refused(tmp_path):
    (tmp_path / "models--o--n/refs").mkdir(parents=True)
    (tmp_path / "models--o--n/snapshots").mkdir()
    (tmp_path / "models--o--n/refs/step1").write_text("../../../etc")
    with pytest.raises(InputError, match="holds no hash of a commit"):
        list_run(str(tmp_path / "models--o--n"))
