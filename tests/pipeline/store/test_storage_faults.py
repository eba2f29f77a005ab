"""A storage that fails, or does not do what a store relies on, loses nothing and is found out."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store.objects import Objects
from pipeline.store.probe import probe
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from tests.pipeline.checkpoints.servers import Faults, Proxy
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, scores

URI = "s3://stores/run.zarr"
TEMPLATES = [scores(), losses()]
KINDS = (500, 503, 429, "reset", "cut", "etag")


@pytest.mark.parametrize(("share", "seed"), [(0.1, 0), (0.2, 1), (0.3, 2)])
def test_an_analysis_survives_a_server_that_stumbles(s3: Proxy, monkeypatch, share, seed):
    monkeypatch.setattr("pipeline.store.packs.LARGE", 64)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *args, **kwargs: 0.01)
    s3.faults = Faults(share, seed, kinds=KINDS)
    store = synthetic.run(URI, TEMPLATES, range(3))
    seal(store)
    publish(store)
    synthetic.run(URI, TEMPLATES, range(4), edition=1)
    seal(store)
    publish(store)
    reclaim(store, older_than=-60)
    assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES, edition=1) == []
    assert s3.faults.done > 20
    s3.faults = Faults()
    assert open_run(store)["losses"]["step"].values.tolist() == [0, 1, 2, 3]
    found = verify(store)
    assert (found.faults, found.rows) == ((), 8)


def test_a_server_without_conditional_writes_is_refused(s3: Proxy):
    s3.ignored = {"if-none-match"}
    with pytest.raises(InputError, match=r"created an object a second time .*If-None-Match"):
        synthetic.run(URI, TEMPLATES, range(3))
    s3.ignored = set()
    assert Objects(URI).list() == []


def test_a_listing_that_lags_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Objects, "list", lambda self, prefix="": [])
    with pytest.raises(InputError, match="did not list an object that was created just before"):
        probe(Objects(str(tmp_path / "run.zarr")))


class TestWithoutHardLinks:
    @pytest.fixture(autouse=True, params=[errno.EPERM, errno.EROFS, errno.EOPNOTSUPP])
    def no_links(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        def link(*args: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr("os.link", link)

    def test_a_store_is_the_same(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "run.zarr", TEMPLATES, range(3))
        seal(store)
        publish(store)
        assert synthetic.wrong_rows(open_run(store).load(), TEMPLATES) == []
        reclaim(store, older_than=-60)
        found = verify(store)
        assert (found.faults, found.foreign) == ((), ())

    def test_an_object_is_created_once(self, tmp_path: Path):
        objects = Objects(str(tmp_path))
        objects.create("a", b"first")
        with pytest.raises(FileExistsError):
            objects.create("a", b"second")
        assert objects.read("a") == b"first"
        assert (objects.list(), objects.first("a")) == (["a"], "a")
        objects.delete("a")
        assert objects.list() == []


def create(uri: str, key: str, won: str) -> None:
    os.link = _refuse  # type: ignore[assignment]
    for number in range(40):
        try:
            Objects(uri).create(f"{key}{number}", str(os.getpid()).encode())
        except FileExistsError:
            continue
        with Path(won).open("a") as file:
            file.write(f"{number}\n")


def _refuse(*args: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


@pytest.mark.slow
def test_of_several_that_create_by_folders_one_wins(tmp_path: Path):
    won = tmp_path / "won"
    killed.side_by_side(create, [(str(tmp_path / "s"), "k", str(won))] * 4)
    assert sorted(map(int, won.read_text().split())) == list(range(40))
