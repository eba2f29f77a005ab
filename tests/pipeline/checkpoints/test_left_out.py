"""Entries that a listing leaves out are reported with the reason."""

import os
import time
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import list_checkpoints, list_run
from pipeline.checkpoints.left_out import in_lines, in_short
from pipeline.checkpoints.unfinished import SETTLED_AFTER
from pipeline.errors import InputError
from tests.pipeline.checkpoints.test_local import age
from tests.pipeline.checkpoints.test_s3 import upload


def left_out(run: Path | str) -> dict[str, tuple[str, str]]:
    return {one.name: (one.kind, one.reason) for one in list_run(str(run)).left_out}


def trainers(folder: Path) -> Path:
    torch.save({}, folder / "training_args.bin")
    return folder


@pytest.fixture
def run(tmp_path, write_checkpoint) -> Path:
    write_checkpoint(tmp_path / "run/checkpoint-1")
    return tmp_path / "run"


def test_an_unfinished_checkpoint_is_named_with_what_it_lacks(run, write_checkpoint):
    young = trainers(write_checkpoint(run / "checkpoint-2"))
    age(young, 12)
    torn = trainers(write_checkpoint(run / "checkpoint-3", sharded=True))
    (torn / "model-00002-of-00002.safetensors").unlink()
    cut = trainers(write_checkpoint(run / "checkpoint-4"))
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[:-4])
    empty = trainers(write_checkpoint(run / "checkpoint-5"))
    (empty / "model.safetensors").unlink()
    no_config = trainers(write_checkpoint(run / "checkpoint-6"))
    (no_config / "config.json").unlink()
    for folder in (torn, cut, empty, no_config):
        age(folder, 2 * SETTLED_AFTER)
    (run / "tmp-checkpoint-7").mkdir()
    found = left_out(run)
    assert {kind for kind, _ in found.values()} == {"unfinished"}
    reasons = {name: reason for name, (_, reason) in found.items()}
    assert reasons["checkpoint-2"].startswith(("changed 12 s ago", "changed 13 s ago"))
    assert "shard 2 of 2 is missing (model-00002" in reasons["checkpoint-3"]
    assert "model.safetensors is cut off" in reasons["checkpoint-4"]
    assert reasons["checkpoint-5"].startswith("no weights yet")
    assert reasons["checkpoint-6"].startswith("no config.json yet")
    assert "has not ended" in reasons["tmp-checkpoint-7"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("save-300", "name not understood"),
        ("checkpoint-final", "name not understood"),
        ("checkpoint-400-merged", "name not understood"),
        ("lc-4k-to-32k-step-4000", "name not understood"),
        ("whatever", "name not understood"),
        ("iter_0001000", "no weights"),
        ("100ba", "no weights"),
        ("1000", "no weights"),
        ("checkpoints", "no weights"),
        ("runs", None),
        (".step-9", "unfinished"),
        (".cache", None),
    ],
)
def test_a_folder_of_another_name_is_told_by_kind(run, write_checkpoint, name, kind):
    if kind == "name not understood":
        write_checkpoint(run / name)
    else:
        (run / name / "nested").mkdir(parents=True)
    assert left_out(run).get(name, (None,))[0] == kind


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine_1000.pt", True), ("final.pth", True), ("step-7", True), ("model-1000.pt", True),
        ("epoch.ckpt", True), ("model.safetensors", False), ("optimizer.pt", False),
        ("model-00001-of-00002.safetensors", False), ("rng_state_0.pth", False),
        ("training.yaml", False), ("README.md", False), ("tokenizer.json", False),
    ],
)  # fmt: skip
def test_a_file_is_told_if_it_may_be_a_checkpoint(run, name, told):
    (run / name).write_text("p: 5")
    assert (name in left_out(run)) == told


def test_one_line_a_kind_with_counts_and_first_names(run, write_checkpoint):
    for number in (1, 2, 10, 20, 100):
        write_checkpoint(run / f"save-{number}")
    (run / "iter_1").mkdir()
    found = list_run(str(run)).left_out
    assert in_short(found) == "; left out: 5 of other names, 1 without weights"
    names, weights = in_lines(found)
    assert names.startswith(
        "name not understood: 5 (save-1, save-2, save-10, save-20, and 1 more): expected step-N"
    )
    assert names.endswith('give `names`, as in "save-{step}"')
    assert weights == "no weights: 1 (iter_1): it is empty"


def test_a_name_with_control_characters_is_shown_escaped(run, write_checkpoint):
    write_checkpoint(run / "save-\x1b]0;1")
    (line,) = in_lines(list_run(str(run)).left_out)
    assert "\x1b" not in line and "\\x1b" in line


def test_a_place_without_checkpoints_says_what_is_there(tmp_path):
    for name in ("ckpt_1000.bin", "ckpt_2000.bin"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"found: ckpt_1000.bin, ckpt_2000.bin \(name not"):
        list_checkpoints(str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README.md").write_text("x")
    with pytest.raises(InputError, match=r"found: README.md; give the place"):
        list_checkpoints(str(tmp_path / "other"))


def test_all_unfinished_says_why(tmp_path, write_checkpoint):
    trainers(write_checkpoint(tmp_path / "checkpoint-100"))
    with pytest.raises(InputError, match=r"found: checkpoint-100: changed \d+ s ago, .*\(unfin"):
        list_checkpoints(str(tmp_path))


def test_files_dated_ahead_of_this_clock_settle_when_seen_for_a_minute(
    run, write_checkpoint, monkeypatch
):
    folder = trainers(write_checkpoint(run / "checkpoint-2"))
    age(folder, -7200)
    assert "checkpoint-2" in left_out(run)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SETTLED_AFTER + 5)
    assert "checkpoint-2" not in left_out(run)
    os.utime(folder / "config.json", (now + 9000, now + 9000))
    assert "checkpoint-2" in left_out(run)


def test_on_s3_a_trainers_folder_is_listed_once_settled(s3, run, write_checkpoint, monkeypatch):
    from pipeline.checkpoints import s3 as place

    trainers(write_checkpoint(run / "checkpoint-2", sharded=True))
    torn = trainers(write_checkpoint(run / "checkpoint-3", sharded=True))
    cut = torn / "model-00001-of-00002.safetensors"
    cut.write_bytes(cut.read_bytes()[:-4])
    write_checkpoint(run / "checkpoint-final")
    (run / "mine_7.pt").write_bytes(b"x")
    uri = upload(run)
    assert [c.step for c in list_checkpoints(uri)] == [1]
    before = time.time()
    now = place.now(uri)
    assert before - 2 < now < time.time() + 2  # the server tells whole seconds
    monkeypatch.setattr(place, "now", lambda uri: now + SETTLED_AFTER + 5)
    assert [c.step for c in list_checkpoints(uri)] == [1, 2]
    found = left_out(uri)
    assert "is cut off" in found["checkpoint-3"][1]
    assert {name for name, (kind, _) in found.items() if kind == "name not understood"} == {
        "checkpoint-final", "mine_7.pt",
    }  # fmt: skip


def test_on_a_hub_refs_of_other_names_are_told(hub, run, write_checkpoint):
    write_checkpoint(run / "checkpoint-final")
    write_checkpoint(run / "develop")
    hub.add_run("owner/name", run)
    (told,) = left_out("hf://owner/name").items()
    assert told[0] == "checkpoint-final" and told[1][0] == "name not understood"
    assert left_out("hf://owner/name@checkpoint-1") == {}
