"""The report of a run in progress, written by a process of its own."""

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.logging import disable_run_logger

import flows.analyze
from flows import refreshing
from flows.analyze import run_analysis
from flows.artifacts import artifact_key
from flows.refreshing import Refresher
from flows.reporting import report_page
from pipeline import analyze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]


@pytest.fixture
def refresher(make_analysis: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield what refreshes the report of a small store, at once."""
    monkeypatch.setattr(refreshing, "FIRST", 0.0)
    store = analyze(make_analysis(measures={"weight_norm": {}})).store
    with tempfile.TemporaryFile() as errors, disable_run_logger():
        made = Refresher(store, errors)
        yield made
        made.stop()


def finished(refresher: Refresher) -> bool:
    """Wait until a report has been tried."""
    while refresher._process is not None and refresher._ended is None:
        time.sleep(0.1)
    return refresher.refresh()


def test_a_report_is_written_without_storing_results(refresher: Refresher) -> None:
    before = sorted(Path(refresher.store).rglob("*"))
    assert not refresher.refresh()  # started
    assert finished(refresher)
    assert report_page(refresher.store).exists()
    assert sorted(Path(refresher.store).rglob("*")) == before


def test_a_pause_of_nine_times_its_seconds_follows_a_report(refresher: Refresher) -> None:
    before = time.monotonic()
    refresher.refresh()
    begun = refresher._started
    assert before <= begun <= time.monotonic()
    assert refresher._process is not None
    refresher._process.wait()
    took = time.monotonic() - begun
    time.sleep(took / 2)  # the next checkpoint is later
    assert finished(refresher)
    refresher.refresh()
    assert refresher._process is None
    assert refresher._next - begun == pytest.approx(10 * took, rel=0.2)


def test_a_report_that_fails_is_said_once_and_tried_again(
    refresher: Refresher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refreshing, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(refreshing, "_PAUSE", 0)
    refresher.store += "-elsewhere"
    for _ in range(2):
        refresher.refresh()
        assert refresher._process is not None
        assert not finished(refresher)
    (said,) = (record.getMessage() for record in caplog.records if record.name == "run")
    assert "the report is not refreshed for now" in said and "elsewhere" in said
    monkeypatch.setattr(refreshing.sys, "executable", "/nowhere/python")
    refresher.refresh()
    assert refresher._process is None
    assert "/nowhere/python" in caplog.records[-1].getMessage()


def test_a_report_that_is_being_written_ends_with_the_block(refresher: Refresher) -> None:
    refresher.refresh()
    process = refresher._process
    assert process is not None
    refresher.stop()
    assert process.returncode is not None and not report_page(refresher.store).exists()


def test_a_run_links_its_report_before_its_end(
    make_analysis: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "FIRST", 0.0)
    analysis = make_analysis(measures={"weight_norm": {}}, workers={"count": 1})
    made: list[Refresher] = []
    seen: list[str] = []

    @contextmanager
    def recorded(store: str) -> Iterator[Refresher]:
        with refreshing.refreshing(store) as one:
            made.append(one)
            yield one

    monkeypatch.setattr(flows.analyze, "refreshing", recorded)

    def wait_for_the_report(done: int, total: int, what: str) -> None:
        if done == 3:
            (process,) = (one._process for one in made)
            assert process is not None and process.wait(timeout=300) == 0
            page = report_page(analysis.store).parent / "store" / "overview.html"
            seen.extend(re.findall(r"(\d+) checkpoints?", page.read_text())[:1])

    run_analysis(analysis, wait_for_the_report)
    assert 1 <= int(seen[0]) <= 10  # workers go on while the callback waits
    key = ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key("report", analysis.store)]))
    with get_client(sync_client=True) as client:
        links = client.read_artifacts(artifact_filter=key)
    assert len(links) == 2
