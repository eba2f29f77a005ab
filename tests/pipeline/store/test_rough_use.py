"""Stores that were treated roughly: what is damaged or foreign gets one sentence, and heals."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.errors import InputError
from pipeline.query.export import export
from pipeline.query.run import open_run
from pipeline.schema import Variable
from pipeline.store import Store, Template
from pipeline.store.fingerprint import variant_id
from pipeline.store.lease import owned
from pipeline.store.non_finite import keep_row
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from pipeline.store.versions import key_of
from tests.pipeline.store.synthetic import losses, run, scores, wrong_rows

TEMPLATES = [scores(), losses()]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with sealed rows, their trajectories, and newer rows."""
    made = run(tmp_path / "run.zarr", TEMPLATES, range(3))
    seal(made)
    publish(made)
    return run(made.uri, TEMPLATES, range(4))


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_what_is_in_the_place_of_a_version_is_named_and_removed(store, kind):
    place = Path(store.objects.path(key_of(store.version().number + 1)))
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("nowhere")
    with pytest.raises(InputError, match="is no file that can be read"):
        open_run(store)
    assert verify(store, repair=True).faults
    assert not place.is_dir() and not place.is_symlink()
    assert not verify(store).faults
    assert not wrong_rows(open_run(store), TEMPLATES)


def test_trajectories_that_are_gone_are_named(store):
    tree = open_run(store)
    shutil.rmtree(store.objects.path("published"))
    with pytest.raises(InputError, match="is gone: open the store again"):
        tree["losses"].to_dataset().load()
    verify(store, repair=True)
    assert not wrong_rows(open_run(store), TEMPLATES)


def test_a_store_that_is_removed_after_it_was_opened_is_named(store):
    tree = open_run(store)
    shutil.rmtree(store.uri)
    with pytest.raises(InputError, match="is gone: open the store again"):
        tree["losses"].to_dataset().load()


def test_a_store_whose_every_version_is_damaged_is_told_so(store):
    for one in Path(store.objects.path("versions")).iterdir():
        one.write_bytes(b"{}")
    with pytest.raises(InputError, match="every version is damaged"):
        verify(store, repair=True)


@pytest.mark.parametrize("seconds", ["x", 1e9, None, -1])
def test_a_lease_that_was_not_written_by_us_owns_nothing(store, seconds):
    with owned(store):
        (held,) = Path(store.objects.path("_lease")).iterdir()
        content = json.loads(held.read_text())
    other = {**content, "machine": "another", "released": False, "seconds": seconds}
    held.with_name("00000009.json").write_text(json.dumps(other))
    with owned(store):
        pass


def test_foreign_folders_are_no_generations(store):
    place = Path(store.objects.path("packs/²/scores/x"))
    place.parent.mkdir(parents=True)
    place.write_text("x")
    reclaim(store, older_than=0)
    assert place.exists()
    assert not wrong_rows(open_run(store), TEMPLATES)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", None])
@pytest.mark.parametrize(
    "pattern",
    [
        "zarr.json",
        "published/zarr.json",
        "published/*/zarr.json",
        "published/*/losses.*/loss/zarr.json",
        "published/*/losses.*/step/zarr.json",
        "published/*/losses.*/position/c/0",
    ],
)
def test_what_only_zarr_reads_is_verified_and_made_anew(store, pattern, content):
    (place,) = Path(store.uri).glob(pattern)
    place.unlink()
    if content is not None:
        place.write_bytes(content)
    assert verify(store).faults
    verify(store, repair=True)
    publish(store)
    assert not verify(store).faults


def test_a_damaged_record_of_a_row_has_the_row_computed_again(store):
    row = store.commits("scores")[0]
    keep_row(store, row.group, row.fingerprint, {"induction": "1 of 6"})
    (record,) = Path(store.objects.path("_non_finite/rows/scores")).iterdir()
    record.write_bytes(b"torn")
    found = verify(store, repair=True)
    assert [fault.commit for fault in found.faults] == [None, row]
    assert row not in store.commits("scores")
    assert not verify(store).faults


def test_texts_that_label_a_dimension_are_exported_as_zarr_specifies_them(tmp_path):
    names = Template(
        "names", variant_id(measure="names"),
        (Variable("a", ("step", "parameter"), "1", "A number."),),
        {"parameter": np.array(["W_E", "Wü"])}, {"version": 1},
    )  # fmt: skip
    made = run(tmp_path / "names.zarr", [names], range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export(made.uri, tmp_path / "plain.zarr")
    opened = xr.open_datatree(tmp_path / "plain.zarr", engine="zarr")
    assert opened["names"]["parameter"].values.tolist() == ["W_E", "Wü"]
