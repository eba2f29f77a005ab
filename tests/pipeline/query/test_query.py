"""Selection by label, lazily, and the errors for unknown names and labels."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipeline.errors import InputError
from pipeline.query import open_run, parse_selection, select, to_frame, write
from pipeline.store import Store
from pipeline.store.trajectories import publish
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores, values_of

STEPS = [0, 1, 2, 100, 500]


@pytest.fixture(params=["packs", "trajectories"], scope="module")
def store(request, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp(request.param) / "run.zarr"
    made = synthetic.run(folder, [scores(), losses()], STEPS[::-1])
    if request.param == "trajectories":
        publish(made)
    return made


@pytest.fixture
def tree(store: Store) -> xr.DataTree:
    return open_run(store.uri)


class TestOpening:
    def test_every_number_is_that_of_its_step(self, tree):
        assert synthetic.wrong_rows(tree, [scores(), losses()]) == []

    def test_groups_are_labelled_and_described(self, tree):
        assert sorted(tree.children) == ["losses", "scores"]
        group = tree["scores"]
        assert group["step"].values.tolist() == STEPS
        assert group["uri"].values.tolist() == [f"run/step-{step}" for step in STEPS]
        assert group["induction"].dims == ("step", "layer", "head")
        assert group["induction"].attrs == {
            "long_name": "induction",
            "units": "1",
            "unit": "1",
            "definition": "A score.",
            "references": "A paper",
        }
        assert group.attrs == {"version": 1, "parameters": {"layers": 2}}
        assert tree.attrs == {"identity": synthetic.IDENTITY, "masked": {}, "not_finite": {}}

    def test_opening_reads_no_numbers(self, store, monkeypatch):
        monkeypatch.setattr("pipeline.store.lazy.StoredArray.read", None)
        loss = open_run(store)["losses/loss"]
        assert loss.shape == (5, 4, 6)
        with pytest.raises(TypeError):
            loss.load()

    @pytest.mark.parametrize(
        "key",
        [
            (slice(None), 1, slice(None)),
            (slice(None, None, -1), slice(3, 0, -1), slice(1, None, 2)),
            ([4, 0, 0], [2, 1], 3),
            (-1, -1, -1),
            (np.array([True, False, True, False, True]), slice(2, 2), [5]),
        ],
    )
    def test_any_part_is_the_same_part_of_the_whole(self, tree, key):
        loss = tree["losses/loss"]
        whole = xr.DataArray(loss.values, dims=loss.dims)
        dims = dict(zip(loss.dims, key, strict=True))
        assert np.array_equal(loss.isel(dims).values, whole.isel(dims).values, equal_nan=True)

    def test_parts_of_parts_compose(self, tree):
        loss = tree["losses/loss"]
        lazily = loss.isel(step=[3, 1]).isel(sequence=2).sel(step=1).values
        assert np.array_equal(lazily, values_of(losses(), 1)["loss"][2], equal_nan=True)

    def test_points_are_read_one_by_one(self, tree):
        at = xr.DataArray([0, 3, 4], dims="point")
        picked = tree["losses/loss"].isel(step=at, sequence=xr.DataArray([1, 2, 3], dims="point"))
        for point, (step, sequence) in enumerate([(0, 1), (100, 2), (500, 3)]):
            expected = values_of(losses(), step)["loss"][sequence]
            assert np.array_equal(picked.isel(point=point).values, expected)

    def test_what_is_open_can_be_sent_to_another_process(self, tree, store):
        sent = pickle.loads(pickle.dumps(tree))
        assert synthetic.wrong_rows(sent, [scores(), losses()]) == []
        assert sent.identical(open_run(store))

    def test_with_dask_the_numbers_are_the_same(self, store):
        tree = open_run(store, chunks={"step": 2})
        assert tree["losses/loss"].chunks == ((2, 2, 1), (4,), (6,))
        assert synthetic.wrong_rows(tree, [scores(), losses()]) == []
        mean = tree["losses/loss"].mean("sequence", skipna=True).compute()
        expected = open_run(store)["losses/loss"].load().mean("sequence", skipna=True)
        xr.testing.assert_allclose(mean, expected)

    def test_a_step_can_be_selected_over_the_whole_tree(self, tree):
        at = tree.sel(step=100)
        assert at["losses/mean"].item() == values_of(losses(), 100)["mean"]
        assert at["scores/count"].item() == values_of(scores(), 100)["count"]


class TestDamage:
    @pytest.fixture
    def damaged(self, store, tmp_path: Path) -> Store:
        shutil.copytree(store.uri, tmp_path / "damaged.zarr")
        return Store(str(tmp_path / "damaged.zarr"))

    def numbers(self, store: Store) -> Path:
        """The object that holds losses: of trajectories where there are any, else of a row."""
        root = Path(store.uri)
        published = sorted(path for path in root.glob("published/*/losses.*/loss/c/**/*"))
        return next(
            path for path in published or sorted(root.glob("packs/*/losses/*")) if path.is_file()
        )

    def test_a_flipped_bit_is_an_error_and_no_number(self, damaged):
        file = self.numbers(damaged)
        content = bytearray(file.read_bytes())
        content[-60 if "packs" in file.parts else 20] ^= 1
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"losses.* is damaged .* run `ontogeny store verify"):
            open_run(damaged)["losses"].load()

    def test_a_deleted_object_is_an_error_and_no_nan(self, damaged):
        tree = open_run(damaged)
        self.numbers(damaged).unlink()
        with pytest.raises(InputError, match=r"losses.* is gone"):
            tree["losses/loss"].load()


class TestSelecting:
    def test_labels_select_and_slices_include_both_ends(self, tree):
        found = select(tree, "scores/induction", step=slice(1, 100), layer=1, head=[0, 2])
        assert found["step"].values.tolist() == [1, 2, 100]
        assert found.shape == (3, 2)
        expected = [values_of(scores(), step)["induction"][1, [0, 2]] for step in (1, 2, 100)]
        assert np.array_equal(found.values, expected)

    @pytest.mark.parametrize(
        ("address", "labels", "sentence"),
        [
            ("score/induction", {}, "did you mean 'scores/induction'"),
            ("induction", {}, "did you mean 'scores/induction'"),
            ("scores/inductoin", {}, "no 'inductoin' in group 'scores'; did you mean 'induction'"),
            ("scores/induction", {"heads": 1}, "no dimension 'heads'; did you mean 'head'"),
            ("scores/count", {"head": 1}, "no dimension 'head'; known are: step"),
            ("scores/count", {"step": 3}, "no step 3: it has 0, 1, 2, 100, 500"),
            ("scores/count", {"step": [1, 3]}, r"no step \[1, 3\]"),
            ("scores/count", {"step": "last"}, "no step 'last'"),
            ("scores/count", {"step": slice(3, 99)}, "no step in 3:99: it has 0, 1"),
            ("scores/count", {"step": slice("a", "b")}, "no step"),
        ],
    )
    def test_what_is_not_there_is_refused_with_what_is(self, tree, address, labels, sentence):
        with pytest.raises(InputError, match=sentence):
            select(tree, address, **labels)

    @pytest.mark.parametrize(
        ("text", "label"),
        [
            ("100", 100),
            ("-1", -1),
            ("100:500", slice(100, 500)),
            (":500", slice(None, 500)),
            ("100:", slice(100, None)),
            (":", slice(None, None)),
            ("1, 2,5", [1, 2, 5]),
            ("W_E", "W_E"),
            ("W_E,W_U", ["W_E", "W_U"]),
        ],
    )
    def test_labels_are_understood_as_they_are_typed(self, text, label):
        assert parse_selection(text) == label


class TestTables:
    def test_one_row_per_number_with_its_labels(self, tree):
        frame = to_frame(select(tree, "scores/induction", step=[1, 2], head=1))
        assert list(frame.columns) == ["step", "layer", "head", "tokens_seen", "induction"]
        assert frame["step"].tolist() == [1, 1, 2, 2]
        assert frame["head"].tolist() == [1] * 4
        assert frame["tokens_seen"].tolist() == [pd.NA, pd.NA, 2000, 2000]
        expected = [values_of(scores(), step)["induction"][:, 1] for step in (1, 2)]
        assert np.array_equal(frame["induction"], np.ravel(expected), equal_nan=True)

    def test_one_number_is_a_table_of_one_row(self, tree):
        frame = to_frame(select(tree, "losses/mean", step=100))
        assert frame.to_dict("records") == [
            {"step": 100, "tokens_seen": 100000, "mean": values_of(losses(), 100)["mean"]}
        ]

    def test_json_has_null_where_a_number_is_not_defined(self, tree):
        stream = io.StringIO()
        write(to_frame(select(tree, "scores/induction", step=1, layer=0, head=1)), "json", stream)
        assert json.loads(stream.getvalue()) == [
            {"step": 1, "layer": 0, "head": 1, "tokens_seen": None, "induction": None}
        ]

    def test_csv_and_parquet_come_back_as_they_went(self, tree, tmp_path: Path):
        frame = to_frame(select(tree, "losses/mean"))
        with (tmp_path / "a.csv").open("w") as text, (tmp_path / "a.parquet").open("wb") as binary:
            write(frame, "csv", text)
            write(frame, "parquet", binary)
        for back in (pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "a.parquet")):
            pd.testing.assert_frame_equal(
                back.astype(frame.dtypes.to_dict()), frame, check_exact=True
            )

    def test_a_long_table_says_what_it_leaves_out(self):
        stream = io.StringIO()
        write(pd.DataFrame({"step": range(250)}), "table", stream)
        assert "and 50 more rows" in stream.getvalue()

    def test_an_unknown_format_is_refused(self):
        with pytest.raises(InputError, match="did you mean 'parquet'"):
            write(pd.DataFrame(), "parket", io.StringIO())  # type: ignore[arg-type]
