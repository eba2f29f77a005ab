"""Means, conditions, sorting and limits, against pandas and numpy on the whole table at once."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import LocalCluster

from pipeline.errors import InputError
from pipeline.query import Asked, ask, open_run, select, tables, to_frame
from pipeline.query.dask_client import dask_scheduler
from pipeline.query.tables import frames, write
from pipeline.store import Store
from pipeline.store.trajectories import publish
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores, values_of

STEPS = [0, 1, 2, 100, 500]


@pytest.fixture(params=["packs", "trajectories"], scope="module")
def store(request, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = synthetic.run(tmp_path_factory.mktemp("run") / "s.zarr", [scores(), losses()], STEPS)
    if request.param == "trajectories":
        publish(made)
    return made


@pytest.fixture
def tree(store: Store) -> xr.DataTree:
    return open_run(store)


def table(tree: xr.DataTree, address: str, asked: Asked, **labels) -> pd.DataFrame:
    return pd.concat(list(ask(tree, address, asked, **labels)), ignore_index=True)


class TestConditions:
    def test_rows_are_those_for_which_it_holds(self, tree):
        found = table(tree, "scores/induction", Asked(where="induction > 40 and layer >= 1"))
        expected = [
            (step, 1, head, value)
            for step in STEPS
            for head, value in enumerate(values_of(scores(), step)["induction"][1].tolist())
            if value > 40
        ]
        columns = ["step", "layer", "head", "induction"]
        assert list(found[columns].itertuples(index=False, name=None)) == expected
        assert 0 < len(found) < 15

    def test_what_is_not_defined_satisfies_no_comparison(self, tree):
        for where in ("induction > -1", "induction < 1000"):
            assert table(tree, "scores/induction", Asked(where=where))["induction"].notna().all()

    def test_another_variable_of_the_group_can_be_named(self, tree):
        found = table(tree, "scores/induction", Asked(where="count > 50"))
        steps = [step for step in STEPS if values_of(scores(), step)["count"] > 50]
        assert sorted(set(found["step"])) == steps
        assert set(steps) < set(STEPS)

    def test_labels_and_unknown_tokens_can_be_compared(self, tree):
        found = table(tree, "scores/count", Asked(where="tokens_seen >= 2000 or step == 1"))
        assert found["step"].tolist() == [1, 2, 100, 500]

    def test_arithmetic_and_chains_are_understood(self, tree):
        found = table(tree, "scores/count", Asked(where="2 <= step / 50 < 10 and not step == 7"))
        assert found["step"].tolist() == [100]

    @pytest.mark.parametrize(
        ("where", "sentence"),
        [
            ("inductoin > 1", "names 'inductoin', which is no column; did you mean 'induction'"),
            ("induction >", "cannot be read"),
            ("__import__('os').system('true')", "has a call"),
            ("induction.max() > 1", "has a call"),
            ("[1]", "has a list"),
            ("induction > 'a'", "cannot be evaluated"),
            ("@layer > 1", "cannot be read"),
        ],
    )
    def test_what_cannot_be_judged_is_one_sentence(self, tree, where, sentence):
        with pytest.raises(InputError, match=sentence):
            table(tree, "scores/induction", Asked(where=where))


class TestMeans:
    def test_a_mean_is_taken_in_float64_over_what_is_defined(self, tree):
        found = table(tree, "losses/loss", Asked(mean=["sequence"]))
        for step in STEPS:
            shown = found.loc[found["step"] == step, "loss"].to_numpy()
            loss = values_of(losses(), step)["loss"].astype(np.float64)
            assert np.isnan(loss[0]).all()
            np.testing.assert_allclose(shown, loss[1:].mean(axis=0), rtol=1e-15)

    def test_means_over_several_dimensions_and_selections(self, tree):
        asked = Asked(mean=["sequence", "position"])
        found = table(tree, "losses/loss", asked, step=slice(1, 100), position=[2, 3])
        expected = [
            np.nanmean(values_of(losses(), step)["loss"][:, [2, 3]], dtype=np.float64)
            for step in (1, 2, 100)
        ]
        assert list(found.columns) == ["step", "tokens_seen", "loss", "left_out"]
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-15)
        assert found["left_out"].tolist() == [2, 2, 2]  # of 4 x 2: the first sequence is NaN

    def test_a_mean_that_leaves_nothing_out_has_no_such_column(self, tree):
        found = table(tree, "losses/loss", Asked(mean=["position"]), sequence=[1, 2])
        assert "left_out" not in found.columns

    def test_a_mean_over_all_steps_has_no_step(self, tree):
        found = table(tree, "scores/induction", Asked(mean=["step"]))
        assert list(found.columns) == ["layer", "head", "induction", "left_out"]
        assert found["left_out"].tolist() == [len(STEPS)] * 3 + [0] * 3  # layer 0 is NaN
        whole = np.stack([values_of(scores(), s)["induction"].astype(float) for s in STEPS])
        np.testing.assert_allclose(found["induction"], whole.mean(axis=0).ravel(), equal_nan=True)

    def test_a_mean_over_everything_is_one_number(self, tree):
        array = select(tree, "losses/mean")
        (row,) = table(tree, "losses/mean", Asked(mean=["step"])).to_dict("records")
        assert row["mean"] == pytest.approx(float(array.mean()))
        assert "step" not in row

    def test_a_condition_sees_the_mean(self, tree):
        asked = Asked(mean=["sequence", "position"], where="loss > 50")
        assert set(table(tree, "losses/loss", asked)["loss"] > 50) == {True}

    def test_a_dimension_that_is_not_there_is_one_sentence(self, tree):
        with pytest.raises(InputError, match="average over 'sequnce'; did you mean 'sequence'"):
            table(tree, "losses/loss", Asked(mean=["sequnce"]))

    def test_in_the_chunks_in_which_it_is_stored_the_numbers_are_the_same(self, store, tree):
        dask = open_run(store, chunks="stored")
        assert dask["losses/loss"].chunks is not None
        assert dask.compute().identical(tree.load())

    @pytest.mark.slow
    def test_on_a_cluster_it_is_the_same(self, store):
        asked = Asked(mean=["sequence"])
        here = table(open_run(store), "losses/loss", asked)
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
            dask_scheduler(cluster.scheduler_address),
        ):
            there = table(open_run(store), "losses/loss", asked)
        pd.testing.assert_frame_equal(here, there)


class TestOrder:
    def test_sorting_and_a_limit_give_the_largest(self, tree):
        asked = Asked(sort="induction", descending=True, limit=3, where="induction >= 0")
        found = table(tree, "scores/induction", asked)
        every = np.concatenate([values_of(scores(), s)["induction"].ravel() for s in STEPS])
        assert found["induction"].tolist() == sorted(every[~np.isnan(every)].tolist())[::-1][:3]

    def test_a_limit_alone_gives_the_first(self, tree):
        found = table(tree, "scores/induction", Asked(limit=4))
        assert found["head"].tolist() == [0, 1, 2, 0]

    def test_an_unknown_column_is_one_sentence(self, tree):
        with pytest.raises(InputError, match="no column 'induct'; did you mean 'induction'"):
            table(tree, "scores/induction", Asked(sort="induct"))


class TestPieces:
    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch):
        monkeypatch.setattr(tables, "_PIECE", 10)

    def test_pieces_together_are_the_table(self, tree):
        chosen = select(tree, "losses/loss")
        pieces = list(frames(chosen))
        assert len(pieces) == len(STEPS)
        together = pd.concat(pieces, ignore_index=True)
        assert together["loss"].to_numpy().tobytes() == chosen.values.tobytes()

    @pytest.mark.parametrize("where", [None, "induction > 60", "induction > 1000"])
    def test_every_format_holds_all_pieces(self, tree, tmp_path: Path, where):
        asked = Asked(where=where)
        whole = table(tree, "scores/induction", asked)
        text, columns = {}, ["step", "layer", "head", "induction"]
        for format in ("csv", "json"):
            stream = io.StringIO()
            write(ask(tree, "scores/induction", asked), format, stream)
            text[format] = stream.getvalue()
        with (tmp_path / "a.parquet").open("wb") as stream:
            write(ask(tree, "scores/induction", asked), "parquet", stream)
        for back in (
            pd.read_csv(io.StringIO(text["csv"])),
            pd.DataFrame(json.loads(text["json"]), columns=list(whole.columns)),
            pd.read_parquet(tmp_path / "a.parquet"),
        ):
            np.testing.assert_allclose(
                back[columns].to_numpy(float), whole[columns].to_numpy(float), rtol=1e-6
            )

    def test_a_table_counts_what_it_leaves_out_over_all_pieces(self, tree, monkeypatch):
        monkeypatch.setattr(tables, "TABLE_ROWS", 7)
        stream = io.StringIO()
        write(ask(tree, "scores/induction"), "table", stream)
        assert "and 23 more rows" in stream.getvalue()

    def test_an_empty_answer_has_its_columns(self, tree):
        stream = io.StringIO()
        write(ask(tree, "scores/induction", Asked(where="step < 0")), "csv", stream)
        assert stream.getvalue() == "step,layer,head,tokens_seen,induction\n"
        assert to_frame(select(tree, "scores/count", step=1)).shape == (1, 3)
