"""Every kind of damage is found and named; after a repair the next analysis recomputes it."""

import re
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store, chunk_shapes
from pipeline.store.lease import owned
from pipeline.store.reclaim import seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from pipeline.store.versions import key_of
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores, write

TEMPLATES = [scores(), losses()]
STEPS = [0, 1, 2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", TEMPLATES, STEPS)


@pytest.fixture(autouse=True)
def losses_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.packs.LARGE", 64)


def pack_of(store: Store, step: int, group: str = "losses") -> Path:
    (commit,) = (c for c in store.commits(group) if c.step == step)
    return Path(store.uri) / commit.key


def large_of(store: Store, step: int) -> Path:
    (commit,) = (c for c in store.commits("losses") if c.step == step)
    return Path(store.uri) / commit.large_key("loss")


def sentences(store: Store) -> list[str]:
    return [str(fault) for fault in verify(store).faults]


def test_a_sound_store_has_no_faults(store: Store):
    publish(store)
    write(store, scores(), 1, edition=1)
    found = verify(store)
    assert (found.rows, found.faults, found.repaired) == (7, (), False)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip, "loss does not match its checksum"),
        (Path.unlink, "loss is gone"),
        (lambda path: path.write_bytes(b""), "loss does not match its checksum"),
        (cut_off, "loss does not match its checksum"),
    ],
)
def test_a_damaged_large_variable_is_found_and_healed(store: Store, damage, sentence):
    damage(large_of(store, 1))
    heal(store, sentence)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip, "header that does not match its checksum"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"half a pack"), "is no pack"),
        (cut_off, "mean does not match its checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "header that does not match"),
    ],
)
def test_a_damaged_row_is_found_and_healed(store: Store, damage, sentence):
    damage(pack_of(store, 1))
    heal(store, sentence)


def heal(store: Store, sentence: str) -> None:
    """The damage at step 1 is found; a repair hides the row, and the next run computes it."""
    (found,) = sentences(store)
    assert re.fullmatch(rf"losses at step 1 \(packs/.*\): .*{sentence}.*", found)
    repaired = verify(store, repair=True)
    assert repaired.repaired and len(repaired.faults) == 1
    assert open_run(store)["losses"]["step"].values.tolist() == [0, 2]
    assert sentences(store) == []
    synthetic.run(store.uri, TEMPLATES, STEPS)
    assert sentences(store) == []
    assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []


def test_the_object_of_another_row_is_found(store: Store):
    """It is whole, and carries good checksums of its own."""
    pack_of(store, 1).write_bytes(pack_of(store, 2).read_bytes())
    (found,) = sentences(store)
    assert found.endswith("is the object of another row")


def test_a_sealed_row_that_is_gone_is_found(store: Store):
    seal(store)
    pack_of(store, 1).unlink()
    heal(store, "is empty")


def test_a_repair_lets_no_older_row_show_through(store: Store):
    newer = write(store, losses(), 1, edition=1)
    flip(Path(store.uri) / newer.large_key("loss"))
    verify(store, repair=True)
    assert open_run(store)["losses"]["step"].values.tolist() == [0, 2]
    assert seal(store) and open_run(store)["losses"]["step"].values.tolist() == [0, 2]


class TestControlFiles:
    @pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 99])
    def test_a_damaged_newest_version_is_replaced_by_the_one_before(self, store: Store, content):
        seal(store)
        publish(store)
        newest = Path(store.uri) / key_of(store.version().number)
        newest.write_bytes(content)
        with pytest.raises(InputError, match="verify --repair"):
            open_run(store)
        found = verify(store, repair=True)
        assert any(newest.name in str(fault) for fault in found.faults)
        assert sentences(store) == []
        assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []
        assert open_run(store)["scores"]["step"].values.tolist() == STEPS

    def test_an_older_version_that_is_damaged_is_found(self, store: Store):
        older = Path(store.uri) / key_of(store.version().number - 1)
        older.write_bytes(b"")
        assert sentences(store) == [
            f"versions/{older.name}: is empty: run `ontogeny store verify --repair`, which goes "
            "back to the version before it"
        ]
        verify(store, repair=True)
        assert sentences(store) == []

    def test_damaged_inputs_and_references_are_made_again(self, store: Store):
        def make() -> None:
            store.save_input("text", "ab" * 32, np.zeros((2, 3), int), {}, {"kind": "text"})
            store.save_reference("scores", "k", {"frequencies": [1]})

        make()
        damaged = [*Path(store.uri).glob("_inputs/*"), *Path(store.uri).glob("_references/*/*")]
        assert len(damaged) == 2
        for file in damaged:
            flip(file)
        assert len(sentences(store)) == 2
        for load in (
            lambda: store.load_input("text", "ab" * 32),
            lambda: store.load_reference("scores", "k"),
        ):
            with pytest.raises(InputError, match="verify --repair"):
                load()
        verify(store, repair=True)
        make()
        assert sentences(store) == []
        assert store.load_reference("scores", "k") == {"frequencies": [1]}

    def test_foreign_files_are_named_and_are_no_fault(self, store: Store):
        (Path(store.uri) / ".DS_Store").write_bytes(b"")
        (Path(store.uri) / "packs/1/scores/.nfs0001").write_bytes(b"")
        (Path(store.uri) / "notes.txt").write_text("mine")
        found = verify(store)
        assert found.faults == ()
        assert found.foreign == (".DS_Store", "notes.txt", "packs/1/scores/.nfs0001")


class TestTrajectories:
    def test_damage_is_found_and_the_rows_are_shown_instead(self, store: Store):
        folder = publish(store).published["losses"].folder
        flip(next(Path(store.uri).glob(f"published/{folder}/loss/c/0/0/0")))
        (found,) = sentences(store)
        assert found.startswith(f"published/{folder}/loss: cannot be read")
        with pytest.raises(InputError, match="is damaged"):
            open_run(store)["losses/loss"].load()
        verify(store, repair=True)
        assert sentences(store) == []
        assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []
        publish(store)
        assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []

    def test_other_numbers_are_found(self, store: Store):
        folder = publish(store).published["scores"].folder
        array = zarr.open_array(f"{store.uri}/published/{folder}/count", mode="r+")
        array[1] = 7
        (found,) = sentences(store)
        assert "differs from the committed row packs/1/scores/1." in found

    def test_a_folder_that_is_gone_is_found(self, store: Store):
        folder = publish(store).published["scores"].folder
        store.objects.delete(f"published/{folder}")
        assert sentences(store)[0].startswith(f"published/{folder}: cannot be opened")

    def test_checksums_are_the_same_slab_by_slab(self, store: Store, monkeypatch):
        monkeypatch.setattr(chunk_shapes, "_CHUNK", 8)
        monkeypatch.setattr(chunk_shapes, "_SHARD", 16)
        monkeypatch.setattr("pipeline.store.trajectory_faults._SLAB", 32)
        publish(store)
        assert sentences(store) == []


def test_a_run_of_step_0_alone_is_sound(tmp_path: Path):
    """All of its coordinates are 0, which Zarr fills in by itself."""
    store = synthetic.run(tmp_path / "one.zarr", [scores(layers=1, heads=1)], [0])
    publish(store)
    assert sentences(store) == []


def test_a_repair_needs_the_store_to_itself(store: Store):
    with owned(store):
        assert sentences(store) == []
        with pytest.raises(InputError, match="another analysis owns the store"):
            verify(store, repair=True)


def test_on_s3_it_is_the_same(s3):
    store = synthetic.run("s3://stores/run.zarr", [scores()], [0, 1])
    publish(store)
    (key,) = (commit.key for commit in store.commits() if commit.step == 1)
    content = bytearray(store.objects.read(key) or b"")
    content[-1] ^= 1
    store.objects.put({key: bytes(content)})
    assert [fault.commit.step for fault in verify(store, repair=True).faults if fault.commit] == [1]
    assert np.array_equal(open_run(store)["scores"]["step"], [0])
