"""The number of requests to storage: one listing of a run, and one for each distinct content."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.analysis.estimate import dry_run
from pipeline.analysis.listing import list_with_tokens
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.auditing import audit
from pipeline.checkpoints import Checkpoint, list_checkpoints
from pipeline.checkpoints.fetch import Copies
from pipeline.config import Analysis
from tests.pipeline.checkpoints.conftest import folder_of
from tests.pipeline.checkpoints.servers import Hub, Proxy
from tests.pipeline.checkpoints.test_s3 import upload

COUNT = 154
# The beginnings of weight files: all have one name and size, so one is read for all. It takes two
# requests: the header's length, and the header.
HEADER = 2


@pytest.fixture
def run(make_run) -> Path:
    """Make a run with two different configs (of equal models) and two small files of its own."""
    folder = make_run([0])
    weights = load_file(folder / "step-0/model.safetensors")
    config = json.loads((folder / "step-0/config.json").read_text())
    for step in range(1, COUNT):
        (folder / f"step-{step}").mkdir()
        moved = {name: tensor + step for name, tensor in weights.items()}
        save_file(moved, folder / f"step-{step}/model.safetensors", {"format": "pt"})
        content = config | ({"_name_or_path": "after"} if step > 100 else {})
        (folder / f"step-{step}/config.json").write_text(json.dumps(content, indent=2) + "\n")
    for path in folder.glob("*/generation_config.json"):
        path.unlink()
    (folder / "notes.json").write_text('{"of": "the run"}')
    (folder / "other.json").write_text('{"of": "the run, too"}')
    return folder


def listed(uri: str, store: Path) -> None:
    assert len(list_with_tokens(uri, None, {}).checkpoints) == COUNT


def audited(uri: str, store: Path) -> None:
    assert audit(uri).checkpoints == COUNT


def estimated(uri: str, store: Path) -> None:
    assert dry_run(analysis_of(uri, store)).checkpoints == COUNT


def planned(uri: str, store: Path) -> None:
    """Do everything that `analyze` does before the first checkpoint is computed."""
    analysis = analysis_of(uri, store)
    assert len(plan(prepare(analysis, survey(analysis)), {}).cells) == COUNT


def analysis_of(uri: str, store: Path) -> Analysis:
    inputs = {"repeated": {"kind": "repeated", "block_length": 8, "sequences": 2}}
    return Analysis.model_validate(
        {
            "checkpoints": uri, "store": str(store), "inputs": inputs,
            "measures": ["weight_norm", "head_scores"],
        }
    )  # fmt: skip


# What each command reads: the configs, the run's own two files, the beginning of a weight file.
READS = {listed: 2, audited: 2 + HEADER, estimated: 4 + HEADER, planned: 4 + HEADER}


def test_a_run_on_s3_is_listed_once_and_each_content_read_once(
    s3: Proxy, run, tmp_path, monkeypatch
):
    uri = upload(run)
    for command, reads in READS.items():
        monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / command.__name__))
        s3.forget()
        command(uri, tmp_path / "a.zarr")
        assert len(s3.paths(containing="list-type")) == 1, command.__name__
        asked = Counter((verb, path, facts.get("Range")) for verb, path, facts in s3.requests)
        assert asked.total() == len(asked) == 1 + reads, command.__name__
    s3.forget()
    planned(uri, tmp_path / "b.zarr")
    assert len(s3.requests) == 1  # what was read before is known by its ETag


def test_a_run_on_the_hub_is_listed_once_and_each_content_read_once(
    hub: Hub, run, tmp_path, monkeypatch
):
    hub.add_run("owner/name", run)
    for command, reads in READS.items():
        monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / command.__name__))
        hub.forget()
        command("hf://owner/name", tmp_path / "a.zarr")
        assert len(hub.paths(containing="/refs")) == 1, command.__name__
        assert len(hub.paths(containing="/tree/")) == COUNT + 1, command.__name__
        asked = Counter((verb, path, facts.get("Range")) for verb, path, facts in hub.requests)
        assert asked.total() == len(asked) == 1 + COUNT + 1 + reads, command.__name__
    hub.forget()
    planned("hf://owner/name", tmp_path / "b.zarr")
    assert len(hub.requests) == 1  # for the refs: a commit never changes


def test_a_worker_lists_a_checkpoint_once_more_before_it_fetches(s3: Proxy, make_run):
    first = list_checkpoints(upload(make_run([0])))[0]
    s3.forget()
    with Copies().of(replace(first, files=None)) as copy:
        assert copy.checkpoint.digest
        assert folder_of(copy).is_dir() and copy.config
    assert len(s3.paths(containing="list-type")) == 1


def test_the_listed_files_are_no_part_of_what_a_checkpoint_is(make_run):
    one, *_ = list_checkpoints(str(make_run([0])))
    assert one.files and one.files["model.safetensors"].size > 0
    assert one == Checkpoint(one.step, one.uri) and hash(one) == hash(Checkpoint(0, one.uri))
    assert "files=" not in repr(one)
    again = pickle.loads(pickle.dumps(one))
    assert again.files == one.files and len(pickle.dumps(one)) < 1000
