"""A store that an earlier version wrote opens, and says the same as an analysis of today.

`tests/data/stored-by-0.1.tar.xz` holds three checkpoints of a model of addition mod 7, and what
`modular_addition` and `weight_norm` found in them, with the attributes and the pointer to the
trajectories under their earlier names.
"""

import tarfile
from pathlib import Path

import pytest
import xarray as xr

from pipeline import Analysis, analyze, open_run
from pipeline.query.measures import stored_measures
from pipeline.store import Store
from pipeline.store.trajectories import published
from pipeline.store.verify import verify

ARCHIVE = Path(__file__).parents[2] / "data" / "stored-by-0.1.tar.xz"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of the unpacked archive: `small`, the checkpoints, and `small.zarr`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_its_numbers_are_those_of_today(kept: Path):
    asked = Analysis(
        checkpoints=str(kept / "small"),
        store=str(kept / "new.zarr"),
        measures=["modular_addition", "weight_norm"],  # type: ignore[arg-type]
    )
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


def test_its_trajectories_are_found_and_whole(kept: Path):
    store = Store(str(kept / "small.zarr"))
    assert set(published(store)) == {"modular_addition", "weight_norm"}
    checked = verify(store)
    assert (checked.rows, checked.faults) == (6, ())
