"""Stores that somebody else has written: deep JSON under a right checksum ends in one sentence."""

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.query.run import open_run
from pipeline.store import Store
from pipeline.store.packs import MAGIC
from pipeline.store.reclaim import seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from pipeline.store.versions import key_of
from tests.pipeline.store.synthetic import losses, run, scores

TEMPLATES = [scores(), losses()]
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = run(tmp_path / "run.zarr", TEMPLATES, range(3))
    seal(made)
    publish(made)
    return run(made.uri, TEMPLATES, range(4))


def _everything(store: Store) -> None:
    for node in open_run(store.uri).subtree:
        node.to_dataset().load()


def test_a_version_that_is_nested_deeply(store):
    sealed = DEEP + b"\n" + hashlib.sha256(DEEP).hexdigest().encode() + b"\n"
    Path(store.objects.path(key_of(store.version().number))).write_bytes(sealed)
    with pytest.raises(InputError, match="nested too deeply"):
        _everything(Store(store.uri))
    assert verify(Store(store.uri), repair=True).faults
    _everything(Store(store.uri))


def test_a_pack_that_is_nested_deeply(store):
    header = DEEP + b"\n" + hashlib.sha256(DEEP).hexdigest().encode() + b"\n"
    content = MAGIC + f"{len(DEEP):012d}\n".encode() + header
    Path(store.objects.path(store.commits()[-1].key)).write_bytes(content)
    with pytest.raises(InputError, match="nested too deeply"):
        _everything(Store(store.uri))
    assert verify(Store(store.uri)).faults


@pytest.mark.parametrize("content", [DEEP, b'{"a": ' + b"9" * 5000 + b"}"], ids=["deep", "digits"])
@pytest.mark.parametrize("place", ["published", "published/*/scores.*/induction", ""])
def test_metadata_of_zarr_that_no_program_wrote(store, place, content):
    (folder,) = Path(store.uri).glob(place) if place else [Path(store.uri)]
    (folder / "zarr.json").write_bytes(content)
    assert verify(Store(store.uri), repair=True).faults
    assert not verify(Store(store.uri)).faults
    _everything(Store(store.uri))


@pytest.mark.parametrize("content", [DEEP, json.dumps({"seconds": 1}).encode()])
def test_a_lease_that_no_program_wrote(store, content):
    lease = Path(store.uri) / "_lease" / "00000001.json"
    lease.parent.mkdir(exist_ok=True)
    lease.write_bytes(content)
    assert verify(store).faults
    verify(store, repair=True)
    assert not verify(store).faults
