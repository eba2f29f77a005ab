"""On S3 the store keeps the same promises, in as few requests as it can."""

import random
from collections import Counter

import pytest

from pipeline.errors import InputError
from pipeline.query import open_run, select, to_frame
from pipeline.store import Store
from pipeline.store.reclaim import seal
from pipeline.store.trajectories import publish
from pipeline.store.writer import Writer
from tests.pipeline.checkpoints.servers import Proxy
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, scores

URI = "s3://stores/some/run.zarr"
TEMPLATES = [scores(), losses()]


def asked(s3: Proxy) -> Counter:
    """What was asked of the server since the last time, by method."""
    counted = Counter(method for method, _, _ in s3.requests)
    s3.forget()
    return counted


def test_a_run_on_s3_is_the_same_as_on_disk(s3: Proxy, tmp_path):
    there = synthetic.run(URI, TEMPLATES, [4, 0, 1])
    here = synthetic.run(tmp_path / "run.zarr", TEMPLATES, [0, 1, 4])
    assert open_run(there).identical(open_run(here))
    publish(there)
    assert open_run(there).identical(open_run(here))
    synthetic.run(URI, TEMPLATES, [0, 1, 4], edition=1)
    assert synthetic.wrong_rows(open_run(URI), TEMPLATES, edition=1) == []


def test_each_question_takes_few_requests(s3: Proxy):
    store = synthetic.run(URI, TEMPLATES, range(5))
    writer = Writer(store, store.version().number, TEMPLATES)
    rows = [
        [(t.group, synthetic.row_of(t, step), synthetic.values_of(t, step)) for t in TEMPLATES]
        for step in (5, 6)
    ]
    writer.write(rows[0])
    s3.forget()
    writer.write(rows[1])
    assert asked(s3) == {"PUT": 2, "GET": 1}, "a row of each group, and what the newest version is"
    seal(store)
    publish(store)
    s3.forget()
    run = open_run(store)
    assert asked(s3) == {"GET": 3}, "the newest version, its content, the rows written since"
    for address, labels in [
        ("losses/loss", {"step": 3}),
        ("scores/induction", {"layer": 1, "head": 2}),
        ("losses/loss", {"sequence": 1, "position": 4}),
    ]:
        to_frame(select(run, address, **labels))
        assert asked(s3) == {"GET": 2}, "the numbers, and the tokens seen"


def test_processes_writing_to_s3_at_once_lose_nothing(s3: Proxy):
    store = synthetic.run(URI, [scores()], [])
    number, steps = store.version().number, list(range(24))
    killed.side_by_side(killed.write_rows, [(store.uri, steps[i::4], number) for i in range(4)])
    assert open_run(store)["scores"]["step"].values.tolist() == steps
    assert synthetic.wrong_rows(open_run(store), [scores()]) == []


def test_an_object_is_created_once_on_s3(s3: Proxy):
    objects = Store(URI).objects
    objects.create("a", b"first")
    with pytest.raises(FileExistsError):
        objects.create("a", b"second")
    objects.put({"a": b"third"})
    assert objects.read("a") == b"third"
    assert objects.read("b") is None
    assert objects.list() == ["a"]
    assert (objects.first("a"), objects.first("b")) == ("a", None)
    objects.delete("a")
    assert objects.list() == []


def test_a_bucket_that_is_not_there_is_one_sentence(s3: Proxy):
    with pytest.raises(InputError, match="there is no store here"):
        open_run("s3://nowhere/run.zarr")
    with pytest.raises(
        InputError, match=r"s3://nowhere/run.zarr: there is no such bucket: create it"
    ):
        Store("s3://nowhere/run.zarr").create_or_open({})


def test_a_server_that_refuses_is_one_sentence(s3: Proxy):
    synthetic.run(URI, [scores()], [0])
    s3.faults.first = [403] * 50
    with pytest.raises(InputError, match=r"s3://stores/some/run.zarr: access is denied"):
        open_run(URI)


def test_a_server_that_stumbles_is_asked_again(s3: Proxy, monkeypatch):
    dice, faults = random.Random(5), []

    def draw() -> int | str | None:
        if dice.random() < 0.9:
            return None
        faults.append(dice.choice([500, 503, "cut"]))
        return faults[-1]

    monkeypatch.setattr(s3.faults, "draw", draw)
    store = synthetic.run(URI, [scores()], range(3))
    assert len(faults) > 5
    assert synthetic.wrong_rows(open_run(store), [scores()]) == []
