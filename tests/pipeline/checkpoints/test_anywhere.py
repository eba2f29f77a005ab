"""The whole analysis from each kind of storage, compared with the same run on disk."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import xarray as xr
from s3fs import S3FileSystem

from infra.s3.ceph import PROGRAMS, Ceph
from pipeline import Analysis, analyze, open_run
from pipeline.checkpoints.cache import cache_folder
from pipeline.report import write_report
from pipeline.store import Store
from tests.benchmarks.servers import free_port
from tests.pipeline.checkpoints.conftest import imitated_s3
from tests.pipeline.checkpoints.servers import Faults

MEASURES = {"weight_norm": {}, "head_scores": {}}
INPUTS = {"repeated": {"kind": "repeated", "block_length": 8, "sequences": 2}}


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start Ceph if it is installed, instead of the server that only imitates S3."""
    if not all(shutil.which(program) for program in PROGRAMS):
        with imitated_s3() as environment:
            yield environment
        return
    server = Ceph(tmp_path_factory.mktemp("s3") / "ceph", free_port())
    yield server.start()
    server.stop()


def analysed(checkpoints: str, store: Path, measures=MEASURES) -> xr.DataTree:
    analysis = Analysis.model_validate(
        {"checkpoints": checkpoints, "store": str(store), "measures": measures, "inputs": INPUTS}
    )
    summary = analyze(analysis)
    assert not summary.failed
    return open_run(str(store))


def without_places(run: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return every group's numbers and attributes, without the addresses of weights."""
    return {name: group.to_dataset().drop_vars("uri") for name, group in run.children.items()}


def assert_equal(one: xr.DataTree, other: xr.DataTree) -> None:
    first, second = without_places(one), without_places(other)
    assert first.keys() == second.keys() == MEASURES.keys()
    for name in first:
        assert first[name].sizes["step"] >= 30
        xr.testing.assert_identical(first[name].load(), second[name].load())


@pytest.fixture
def run(make_run) -> Path:
    folder = make_run(range(0, 320, 10))
    for path in sorted(folder.iterdir())[::3]:
        path.rename(path.with_name(path.name.replace("step-", "checkpoint-")))
    return folder


def upload(folder: Path) -> str:
    S3FileSystem(use_listings_cache=False).put(str(folder), "runs/a", recursive=True)
    return "s3://runs/a"


def test_the_hub_gives_the_store_that_the_folder_gives(hub, run, tmp_path):
    hub.add_run("owner/name", run)
    local = analysed(str(run), tmp_path / "local.zarr")
    assert_equal(local, analysed("hf://owner/name", tmp_path / "hub.zarr"))


def test_s3_gives_the_same_store_and_a_rerun_reads_no_weights(s3, run, tmp_path):
    uri = upload(run)
    local = analysed(str(run), tmp_path / "local.zarr")
    assert_equal(local, analysed(uri, tmp_path / "s3.zarr"))
    s3.forget()
    assert_equal(local, analysed(uri, tmp_path / "s3.zarr"))
    assert not s3.paths(containing="model.safetensors")


def test_one_request_in_ten_failing_gives_the_same_store(hub, s3, run, tmp_path, fast_retries):
    hub.add_run("owner/name", run)
    uri = upload(run)
    local = analysed(str(run), tmp_path / "local.zarr")
    for server in (hub, hub.cdn, s3):
        server.faults = Faults(share=0.1, seed=1)
    assert_equal(local, analysed("hf://owner/name", tmp_path / "hub.zarr"))
    assert_equal(local, analysed(uri, tmp_path / "s3.zarr"))
    assert hub.faults.done > 3 and s3.faults.done > 3


def test_a_hundred_checkpoints_from_s3_never_take_the_disk_of_three(s3, make_run, tmp_path):
    run = make_run(range(100))
    size = (run / "step-0/model.safetensors").stat().st_size
    analysis = Analysis.model_validate(
        {
            "checkpoints": upload(run), "store": str(tmp_path / "s3.zarr"), "inputs": INPUTS,
            "measures": list(MEASURES), "cache": {"checkpoints": 2},
        }
    )  # fmt: skip
    with watched(cache_folder() / "copies") as peak:
        summary = analyze(analysis)
    assert summary.computed == list(range(100))
    print(f"peak {peak[0] / size:.2f} checkpoints' size; {summary.loading()}")
    assert 1 <= peak[0] / size <= 3
    assert 0 < summary.idle_share < 1
    assert not list((cache_folder() / "copies").rglob("*.safetensors"))


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Yield a list whose one entry is the most bytes in a folder at any time in the block."""
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], _held(folder))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _held(folder: Path) -> int:
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile
                total += Path(inside, name).stat().st_size
    return total


@pytest.fixture
def disguised(make_run) -> Path:
    """Make a run whose step 2 has the weights of the last one."""
    run = make_run(range(6))
    for file in (run / "step-5").iterdir():
        shutil.copy(file, run / "step-2")
    return run


def test_what_the_audit_masks_is_left_out_and_said_unless_told_otherwise(disguised, tmp_path):
    content = {
        "checkpoints": str(disguised), "store": str(tmp_path / "a.zarr"),
        "measures": ["weight_norm"],
    }  # fmt: skip
    summary = analyze(Analysis.model_validate(content))
    assert list(summary.masked) == [2] and "final-weights" in summary.masked[2]
    assert "masked by the audit: [2]" in summary.sentence()
    assert list(open_run(content["store"])["weight_norm"].step.values) == [0, 1, 3, 4, 5]
    verdict = Store(str(tmp_path / "a.zarr")).version().verdict
    assert [(fault["step"], fault["kind"]) for fault in verdict["faults"]] == [(2, "final-weights")]
    unasked = content | {"store": str(tmp_path / "b.zarr"), "audit": "off"}
    assert analyze(Analysis.model_validate(unasked)).computed == list(range(6))


def test_rows_that_an_audit_masks_later_are_shown_no_longer(disguised, tmp_path):
    """Rows computed without an audit, and rows computed before the run's last step existed."""
    content = {
        "checkpoints": str(disguised), "store": str(tmp_path / "a.zarr"),
        "measures": ["weight_norm"],
    }  # fmt: skip
    unaudited = Analysis.model_validate(content | {"audit": "off"})
    assert analyze(unaudited).computed == list(range(6))
    audited = Analysis.model_validate(content)
    assert analyze(audited).computed == []
    shown = open_run(audited.store)
    assert list(shown["weight_norm"].step.values) == [0, 1, 3, 4, 5]
    assert "final-weights" in shown.attrs["masked"][2]
    index = write_report([audited.store], tmp_path / "report")
    page = (index.parent / "a" / "checkpoints.html").read_text()
    assert "Not shown" in page and "same bytes as the last step, 5" in page
    assert analyze(unaudited).complete == 6
    assert list(open_run(audited.store)["weight_norm"].step.values) == list(range(6))
    assert Store(str(tmp_path / "a.zarr")).version().verdict is None


def test_selected_steps_alone_are_computed(make_run, tmp_path):
    content = {
        "checkpoints": str(make_run(range(9))), "store": str(tmp_path / "a.zarr"),
        "measures": ["weight_norm"], "select": {"every": 4},
    }  # fmt: skip
    assert analyze(Analysis.model_validate(content)).computed == [0, 4, 8]
