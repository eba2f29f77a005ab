import os
from pathlib import Path

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem

from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.configs import read_config
from pipeline.checkpoints.fetch import Copies
from pipeline.errors import CheckpointError, InputError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import CONFIG, folder_of, tensors
from tests.pipeline.checkpoints.servers import Faults


def upload(folder: Path, place: str = "runs/a") -> str:
    S3FileSystem(use_listings_cache=False).put(str(folder), place, recursive=True)
    return f"s3://{place}"


@pytest.fixture
def run(tmp_path, write_checkpoint):
    """Make a local run in every format."""
    write_checkpoint(tmp_path / "run/step-10", 10, ".bin", sharded=True)
    write_checkpoint(tmp_path / "run/step-0", 0)
    write_checkpoint(tmp_path / "run/step-2", 2, sharded=True)
    write_checkpoint(tmp_path / "run/step-1", 1, ".bin")
    (tmp_path / "run/training.yaml").write_text("p: 5")
    (tmp_path / "run/step-2/nested").mkdir()
    (tmp_path / "run/step-2/nested/model.safetensors").write_bytes(b"no")
    return tmp_path / "run"


def test_a_prefix_lists_as_the_folder_it_was_copied_from(s3, run):
    uri = upload(run)
    s3.forget()
    found = list_checkpoints(uri)
    assert [(c.step, c.uri) for c in found] == [
        (step, f"{uri}/step-{step}") for step in (0, 1, 2, 10)
    ]
    assert len(s3.paths(containing="list-type=2")) == 1
    assert not s3.paths(containing=".safetensors?") and not s3.paths(containing=".bin?")
    assert read_config(found[1].uri) == CONFIG


def test_fetched_weights_and_digests_are_those_of_the_local_files(s3, run):
    local = list_checkpoints(str(run))
    copies = Copies()
    for there, here in zip(list_checkpoints(upload(run)), local, strict=True):
        with copies.of(there) as copy, copies.of(here) as same:
            assert copy.checkpoint.digest == same.checkpoint.digest
            weights = read_weights(copy.parts)
            folder = folder_of(copy)
        assert not folder.exists()
        expected = tensors(there.step)
        assert weights.keys() == expected.keys()
        assert all(np.array_equal(weights[name].numpy(), expected[name]) for name in expected)


def test_a_digest_is_remembered_and_nothing_is_fetched_twice(s3, run):
    uri, copies = upload(run), Copies()
    assert {c.digest for c in list_checkpoints(uri)} == {None}
    digests = []
    for checkpoint in list_checkpoints(uri):
        with copies.of(checkpoint) as copy:
            digests.append(copy.checkpoint.digest)
    s3.forget()
    again = list_checkpoints(uri)
    assert [c.digest for c in again] == digests
    with copies.of(again[0]) as copy:
        assert copy.checkpoint.digest == digests[0]
    assert len(s3.requests) == 1


def test_a_changed_object_has_no_known_digest(s3, run, write_checkpoint, tmp_path):
    uri = upload(run)
    with Copies().of(list_checkpoints(uri)[0]) as copy:
        before = copy.checkpoint.digest
    other = write_checkpoint(tmp_path / "other", 77) / "model.safetensors"
    S3FileSystem(use_listings_cache=False).put(str(other), "runs/a/step-0/model.safetensors")
    changed = list_checkpoints(uri)[0]
    assert changed.digest is None
    with Copies().of(changed) as copy:
        assert copy.checkpoint.digest != before


def test_a_save_that_is_still_uploading_is_not_listed(s3, run):
    (run / "step-12").mkdir()
    (run / "step-12/config.json").write_text("{}")
    (run / "checkpoint-11").mkdir()
    torch.save({}, run / "checkpoint-11/training_args.bin")
    uri = upload(run)
    assert [c.step for c in list_checkpoints(uri)] == [0, 1, 2, 10]


def test_absent_and_wrong_addresses_are_refused(s3, run):
    upload(run)
    for uri in ("s3://runs/nothing", "s3://no-such-bucket/a", "s3://", "s3://runs/../runs/a"):
        with pytest.raises(InputError, match=uri):
            list_checkpoints(uri)
    with pytest.raises(InputError, match="gs://runs/a: checkpoints cannot be read from gs://"):
        list_checkpoints("gs://runs/a")


def test_denied_access_is_one_sentence_without_the_secret(s3, run):
    uri = upload(run)
    s3.faults = Faults(first=[403])
    with pytest.raises(InputError, match="access is denied") as caught:
        list_checkpoints(uri)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in repr(caught.getrepr())


def test_a_place_that_stays_down_is_named_after_all_attempts(s3, run, fast_retries):
    uri = upload(run)
    s3.faults = Faults(share=1.0)
    with pytest.raises(OSError, match=rf"{uri}: cannot be reached"):
        list_checkpoints(uri)


def test_what_vanished_since_the_listing_is_a_bad_checkpoint(s3, run):
    uri = upload(run)
    first = list_checkpoints(uri)[0]
    S3FileSystem(use_listings_cache=False).rm(f"{first.uri[5:]}/model.safetensors")
    with pytest.raises(CheckpointError, match="step-0: holds no weights"), Copies().of(first) as c:
        _ = c.parts


@pytest.mark.parametrize("seed", [0, 1])
def test_one_request_in_three_failing_changes_nothing(s3, run, fast_retries, seed):
    uri = upload(run)
    s3.faults = Faults(share=0.33, seed=seed)
    copies = Copies()
    for checkpoint in list_checkpoints(uri):
        with copies.of(checkpoint) as copy:
            weights = read_weights(copy.parts)
        expected = tensors(checkpoint.step)
        assert all(np.array_equal(weights[name].numpy(), expected[name]) for name in expected)
    assert s3.faults.done > 3
