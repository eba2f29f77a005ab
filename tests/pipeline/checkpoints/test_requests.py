"""How often a place is asked: one listing of the run, and each different content once."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from safetensors.torch import load_file, save_file

from pipeline.analysis.estimate import dry_run
from pipeline.analysis.plan import plan, prepare
from pipeline.analysis.survey import list_with_tokens, survey
from pipeline.audit import audit
from pipeline.checkpoints import Checkpoint, list_checkpoints
from pipeline.checkpoints.fetch import Copies
from pipeline.config import Analysis
from tests.pipeline.checkpoints.servers import Hub, Proxy
from tests.pipeline.checkpoints.test_s3 import upload

COUNT = 154
# The beginnings of weight files: all are of one name and size, so one stands for all. It takes two
# requests: the header's length, and the header.
HEADER = 2


@pytest.fixture
def run(make_run) -> Path:
    """A run with two different configs (of equal models), and two small files of its own."""
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
    """Everything that `analyze` does before the first checkpoint is computed."""
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


# The configs and the run's two files, as far as a command reads them, and what it asks beside.
READS = [(listed, 2, 0), (audited, 2, HEADER), (estimated, 4, HEADER), (planned, 4, HEADER)]
EACH = pytest.mark.parametrize(("command", "contents", "headers"), READS)


@EACH
def test_a_run_on_s3_is_listed_once(s3: Proxy, run, tmp_path, command, contents, headers):
    uri = upload(run)
    s3.forget()
    command(uri, tmp_path / "a.zarr")
    listings = [path for path in s3.paths() if "list-type" in parse_qs(urlsplit(path).query)]
    assert len(listings) == 1
    assert len(s3.requests) == 1 + contents + headers
    asked = Counter((path, headers.get("Range")) for _, path, headers in s3.requests)
    assert set(asked.values()) == {1}


@EACH
def test_a_run_on_the_hub_is_listed_once(hub: Hub, run, tmp_path, command, contents, headers):
    hub.add_run("owner/name", run)
    command("hf://owner/name", tmp_path / "a.zarr")
    own_folder = command is not audited
    assert len(hub.paths(containing="/refs")) == 1
    assert len(hub.paths(containing="/tree/")) == COUNT + own_folder
    assert len(hub.requests) == 1 + COUNT + own_folder + contents + headers


def test_a_second_plan_asks_s3_for_the_listing_alone(s3: Proxy, run, tmp_path):
    uri = upload(run)
    planned(uri, tmp_path / "a.zarr")
    s3.forget()
    planned(uri, tmp_path / "a.zarr")
    assert len(s3.requests) == 1


def test_a_worker_lists_a_checkpoint_once_more_before_it_fetches(s3: Proxy, run):
    first = list_checkpoints(upload(run))[0]
    s3.forget()
    with Copies().of(replace(first, files=None)) as copy:
        assert copy.checkpoint.digest
        assert copy.folder.is_dir() and copy.config
    assert len(s3.paths(containing="list-type")) == 1


def test_the_listed_files_are_no_part_of_what_a_checkpoint_is(run):
    one, *_ = list_checkpoints(str(run))
    assert one.files and one.files["model.safetensors"].size > 0
    assert one == Checkpoint(one.step, one.uri) and hash(one) == hash(Checkpoint(0, one.uri))
    assert "files" not in repr(one)
    again = pickle.loads(pickle.dumps(one))
    assert again.files == one.files and len(pickle.dumps(one)) < 1000
