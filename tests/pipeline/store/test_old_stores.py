"""A store that an earlier version wrote opens, and says the same as an analysis of today.

`tests/data/stored-by-0.1.tar.xz` holds three checkpoints of a model of addition mod 7, and what
`modular_addition` and `weight_norm` found in them, with the attributes and the pointer to the
trajectories under their earlier names.
"""

import shutil
import tarfile
from pathlib import Path

import pytest
import xarray as xr

from pipeline import Analysis, analyze, open_run
from pipeline.errors import InputError
from pipeline.measures import registry
from pipeline.query.measures import stored_measures
from pipeline.store import Store
from pipeline.store.layout1 import is_old
from pipeline.store.upgrade import Upgraded, upgrade
from pipeline.store.verify import verify
from tests.pipeline.store import killed

ARCHIVE = Path(__file__).parents[2] / "data" / "stored-by-0.1.tar.xz"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the unpacked archive: `small`, the checkpoints, and `small.zarr`."""
    # As then, else its rows were computed anew: its numbers are the same today, as is tested.
    monkeypatch.setattr(registry()["modular_addition"], "version", 2)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def analysis(folder: Path, store: str = "small.zarr") -> Analysis:
    return Analysis(
        checkpoints=str(folder / "small"),
        store=str(folder / store),
        measures=["modular_addition", "weight_norm"],  # type: ignore[arg-type]
    )


def test_its_numbers_are_those_of_today(kept: Path):
    asked = analysis(kept, "new.zarr")
    analyze(asked)
    old, new = open_run(str(kept / "small.zarr")), open_run(asked.store)
    assert old.children.keys() == new.children.keys()
    for name in new.children:
        ours, theirs = (tree[name].to_dataset().drop_vars("uri") for tree in (new, old))
        # Another processor may round the last bits in another way.
        xr.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_citations_and_reference_values_have_their_names_of_today(kept: Path):
    group = open_run(str(kept / "small.zarr"))["modular_addition"]
    assert group.attrs["reference_values"] == {"key_frequencies": [1, 2, 3]}
    assert "Nanda et al. 2023" in group["test_loss"].attrs["references"]
    assert "reference" not in group.attrs | group["test_loss"].attrs
    described = {one["name"]: one for one in stored_measures(str(kept / "small.zarr"))}
    assert described["modular_addition"]["reference_from"] == "last"
    assert described["weight_norm"]["reference_from"] is None


def test_it_is_read_only_until_it_is_upgraded(kept: Path):
    with pytest.raises(InputError, match=r"has layout 1, and can only be read: .*store upgrade"):
        analyze(analysis(kept))


def test_an_upgrade_moves_every_row_and_computes_nothing(kept: Path):
    uri = str(kept / "small.zarr")
    before = open_run(uri).load()
    assert upgrade(Store(uri)) == Upgraded(6, {})
    after = open_run(uri).load()
    assert after.identical(before)
    checked = verify(Store(uri))
    assert (checked.rows, checked.faults, checked.foreign) == (6, (), ())
    summary = analyze(analysis(kept))
    assert (summary.computed, summary.complete) == ([], 3)
    with pytest.raises(InputError, match="has the present layout already"):
        upgrade(Store(uri))


def test_a_damaged_row_is_left_out_of_an_upgrade_and_named(kept: Path):
    chunk = next((kept / "small.zarr/rows/weight_norm").glob("*/by_parameter/c/1/*"))
    chunk.write_bytes(chunk.read_bytes()[:-3])
    done = upgrade(Store(str(kept / "small.zarr")))
    assert done.rows == 5 and list(done.left_out) == ["weight_norm at step 20"]
    assert analyze(analysis(kept)).computed == [20]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[1]"])
@pytest.mark.parametrize("what", ["_audit.json", "_references/*/*.json"])
def test_what_is_damaged_beside_the_rows_does_not_stop_an_upgrade(kept: Path, what, content):
    (place,) = (kept / "small.zarr").glob(what)
    place.write_bytes(content)
    assert not upgrade(Store(str(kept / "small.zarr"))).left_out
    assert len(open_run(kept / "small.zarr").children) == 2
    assert not verify(Store(str(kept / "small.zarr"))).faults


def test_an_upgrade_that_is_killed_anywhere_can_be_done_again(kept: Path):
    uri = str(kept / "small.zarr")
    before = open_run(uri).load()
    total = killed.operations(_upgrade_a_copy, uri, str(kept / "counted.zarr"))
    for number in range(0, total, 53):
        copy = str(kept / f"{number}.zarr")
        shutil.copytree(uri, copy)
        killed.killed_before(number, _upgrade, copy)
        for group in before.children:
            assert open_run(copy)[group].to_dataset().load().equals(before[group].to_dataset())
        if Store(copy).versions.newest_number() == 0 or is_old(Store(copy).objects):
            assert upgrade(Store(copy)).left_out == {}
        assert verify(Store(copy)).faults == ()


def _upgrade(uri: str) -> None:
    upgrade(Store(uri))


def _upgrade_a_copy(uri: str, copy: str) -> None:
    shutil.copytree(uri, copy)
    upgrade(Store(copy))
