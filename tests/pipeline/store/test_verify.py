"""Every kind of damage is found and named; after a repair the next analysis recomputes it."""

import re
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store, trajectories
from pipeline.store.lease import owned
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores, write

TEMPLATES = [scores(), losses()]
STEPS = [0, 1, 2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", TEMPLATES, STEPS)


def chunk(store: Store, array: str, row: int = 1) -> Path:
    return next(p for p in Path(store.uri).glob(f"{array}/c/{row}/**/*") if p.is_file())


def sentences(store: Store) -> list[str]:
    return [str(fault) for fault in verify(store).faults]


def test_a_sound_store_has_no_faults(store: Store):
    publish(store, large=True)
    write(store, scores(), 1, edition=1)
    found = verify(store)
    assert (found.rows, found.faults, found.repaired) == (7, (), False)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip, "losses at step 1 .row 1.: loss cannot be read"),
        (lambda path: path.unlink(), "loss cannot be read .*is gone"),
        (lambda path: path.write_bytes(b""), "loss cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "loss cannot be read"),
    ],
)
def test_a_damaged_chunk_is_found_and_healed_by_the_next_run(store: Store, damage, sentence):
    damage(chunk(store, "rows/losses/*/loss"))
    (found,) = sentences(store)
    assert re.search(sentence, found)
    repaired = verify(store, repair=True)
    assert repaired.repaired and len(repaired.faults) == 1
    assert open_run(store)["losses"]["step"].values.tolist() == [0, 2]
    synthetic.run(store.uri, TEMPLATES, STEPS)
    assert sentences(store) == []
    assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []


def test_a_sound_chunk_with_other_numbers_is_found(store: Store):
    """A chunk of another row is whole and carries a good checksum of its own."""
    chunk(store, "rows/losses/*/loss").write_bytes(
        chunk(store, "rows/losses/*/loss", row=2).read_bytes()
    )
    assert sentences(store) == ["losses at step 1 (row 1): loss is not what was committed"]


def test_a_marker_that_cannot_be_read_is_found(store: Store):
    (Path(store.uri) / store.commits("scores")[0].key).write_bytes(b"{")
    assert sentences(store) == ["scores at step 0 (row 0): its marker cannot be read"]
    verify(store, repair=True)
    assert open_run(store)["scores"]["step"].values.tolist() == [1, 2]


def test_a_repair_lets_no_older_row_show_through(store: Store):
    write(store, losses(), 1, edition=1)
    flip(chunk(store, "rows/losses/*/loss", row=3))
    verify(store, repair=True)
    assert open_run(store)["losses"]["step"].values.tolist() == [0, 2]


def test_arrays_that_are_gone_are_found(store: Store):
    root = zarr.open_group(f"{store.uri}/rows", mode="r+", use_consolidated=False)
    del root["scores"]
    store.require_groups([losses()])
    assert sentences(store) == [
        f"scores at step {step} (row {step}): its arrays are gone" for step in STEPS
    ]


class TestTrajectories:
    def test_damage_is_found_and_the_rows_are_shown_instead(self, store: Store):
        folder = publish(store, large=True)["losses"].folder
        flip(next(Path(store.uri).glob(f"trajectories/{folder}/loss/c/0/0/0")))
        (found,) = sentences(store)
        assert found.startswith(f"trajectories/{folder}/loss: cannot be read")
        with pytest.raises(InputError, match="is damaged"):
            open_run(store)["losses/loss"].load()
        verify(store, repair=True)
        assert sentences(store) == []
        assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []
        publish(store, large=True)
        assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []

    def test_other_numbers_are_found(self, store: Store):
        folder = publish(store)["scores"].folder
        array = zarr.open_array(f"{store.uri}/trajectories/{folder}/count", mode="r+")
        array[1] = 7
        (found,) = sentences(store)
        assert "differs from the committed row _commits/scores/1.1." in found

    def test_a_folder_that_is_gone_is_found(self, store: Store):
        folder = publish(store)["scores"].folder
        store.objects.delete(f"trajectories/{folder}")
        assert sentences(store)[0].startswith(f"trajectories/{folder}: cannot be opened")

    def test_checksums_are_the_same_slab_by_slab(self, store: Store, monkeypatch):
        monkeypatch.setattr(trajectories, "_CHUNK", 8)
        monkeypatch.setattr(trajectories, "_SHARD", 16)
        monkeypatch.setattr("pipeline.store.verify._SLAB", 32)
        publish(store, large=True)
        assert sentences(store) == []


def test_a_repair_needs_the_store_to_itself(store: Store):
    with owned(store):
        assert sentences(store) == []
        with pytest.raises(InputError, match="another analysis owns the store"):
            verify(store, repair=True)


def test_on_s3_it_is_the_same(s3):
    store = synthetic.run("s3://stores/run.zarr", [scores()], [0, 1])
    publish(store)
    key = f"rows/scores/{scores().variant}/count/c/1"
    content = bytearray(store.objects.read(key) or b"")
    content[0] ^= 1
    store.objects.replace(key, bytes(content))
    assert [fault.commit.step for fault in verify(store, repair=True).faults if fault.commit] == [1]
    assert np.array_equal(open_run(store)["scores"]["step"], [0])
