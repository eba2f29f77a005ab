"""The same numbers from threads and from the processes of a Dask cluster."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.config
import numpy as np
import pytest
import xarray as xr
from dask.delayed import delayed
from distributed import LocalCluster

from pipeline.aggregate import blocks
from pipeline.aggregate.axes import explain_axes
from pipeline.aggregate.loss_space import loadings
from pipeline.aggregate.token_features import token_features
from pipeline.errors import InputError
from pipeline.query import aggregates, open_run
from pipeline.query.dask_client import dask_scheduler
from pipeline.store import Store
from pipeline.store.results import FOLDER
from pipeline.store.trajectories import publish
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses


def loadings_of(store: Store, group: str) -> xr.Dataset:
    run = {"run": open_run(store, chunks="stored")[group]["loss"]}
    return loadings(run, aggregates.loss_space(store, group, 2)).to_dataset()


def axes_of(store: Store, group: str) -> xr.Dataset:
    run = {"run": open_run(store, chunks="stored")[group].to_dataset()}
    parameters = {"early_token": 2, "late_token": 6}
    run["run"].attrs |= {"parameters": parameters}
    run["run"]["in_context_score"] = run["run"]["mean"]
    features = token_features(np.random.default_rng(0).integers(0, 4, (12, 8)))
    space = aggregates.loss_space(store, group, 2)
    return explain_axes(run, space, features, components=1, resamples=10)


ANSWERS = [
    aggregates.loss_space,
    aggregates.loss_derivative,
    aggregates.learning_curves,
    loadings_of,
    axes_of,
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a cluster of two processes; yield the address of its scheduler."""
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster:
        cluster.wait_for_workers(2)
        yield cluster.scheduler_address


@pytest.fixture(params=[False, True], ids=["rows", "trajectories"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> Store:
    """A store whose losses are read in many blocks."""
    monkeypatch.setattr(blocks, "_READ", 400)
    made = synthetic.run(tmp_path / "run.zarr", [losses(sequences=12, positions=7)], range(1, 14))
    if request.param:
        publish(made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_cluster_gives_the_same_answer_as_threads(address: str, store: Store, answer: Callable):
    with dask_scheduler():
        expected = answer(store, "losses")
    for key in store.objects.list(FOLDER):
        store.objects.delete(key)
    with dask_scheduler(address):
        found = answer(store, "losses")
    xr.testing.assert_identical(found, expected)
    assert np.isfinite(next(iter(found.data_vars.values()))).any()


@pytest.mark.slow
def test_blocks_are_computed_by_the_workers_and_by_nobody_else(address: str, store: Store):
    loss = open_run(store, chunks="stored")["losses"]["loss"]
    with dask_scheduler(address):
        there = set(blocks.over_tokens(lambda block: os.getpid(), [loss]))
    with dask_scheduler():
        here = set(blocks.over_tokens(lambda block: os.getpid(), [loss]))
    after = set(blocks.over_tokens(lambda block: os.getpid(), [loss]))
    assert os.getpid() not in there
    assert here == after == {os.getpid()}


def test_threads_are_used_although_something_else_is_configured():
    with dask.config.set(scheduler="processes"):
        with dask_scheduler():
            assert delayed(os.getpid)().compute() == os.getpid()
        assert dask.config.get("scheduler") == "processes"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here:1", "no address"])
def test_an_address_without_a_scheduler_is_one_sentence(address: str, monkeypatch):
    monkeypatch.setattr("pipeline.query.dask_client._WAIT", "1s")
    expected = pytest.raises(InputError, match=f"{address}: no Dask scheduler answers")
    with expected as error, dask_scheduler(address):
        pass
    assert "\n" not in str(error.value)
    assert dask.config.get("scheduler", None) is None


@pytest.mark.slow
def test_a_cluster_without_workers_is_one_sentence():
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        pytest.raises(InputError, match="has no worker"),
        dask_scheduler(cluster.scheduler_address),
    ):
        pass


def test_threads_are_used_by_a_dask_imported_later():
    code = (
        "import os, sys\n"
        "from pipeline.query.dask_client import dask_scheduler\n"
        "with dask_scheduler():\n"
        "    assert 'dask' not in sys.modules\n"
        "    from dask import config, delayed\n"
        "    print(delayed(os.getpid)().compute() == os.getpid(), config.get('scheduler'))\n"
        "print(config.get('scheduler'), os.environ['DASK_SCHEDULER'])\n"
    )
    environment = os.environ | {"DASK_SCHEDULER": "processes"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().splitlines() == ["True threads", "processes processes"]
