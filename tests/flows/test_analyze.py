"""The flow gives what the plain loop gives, whatever is killed on the way."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort

from flows.analyze import run_analysis
from flows.workers import Pool, connect

MakeAnalysis = Callable[..., Any]
Comparable = Callable[[str], Any]

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture(scope="module", autouse=True)
def ray_ends_with_this_module() -> Iterator[None]:
    yield
    ray.shutdown()


def last_run() -> tuple[FlowRun, list[TaskRun]]:
    """The latest flow run as the server has it, and its task runs."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)
        this = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        return run, client.read_task_runs(flow_run_filter=this, limit=200)


def test_a_killed_worker_costs_what_it_had_in_hand_and_the_store_is_that_of_the_plain_loop(
    make_analysis: MakeAnalysis,
    undisturbed: Any,
    comparable: Comparable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analysis = make_analysis()
    killed: list[int] = []

    def kill_one(done: int, total: int, what: str) -> None:
        if done == 2:
            killed.append(workers()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    summary = run_analysis(analysis, kill_one)
    assert killed
    assert (sorted(summary.computed), summary.complete, summary.failed) == (STEPS, 0, {})
    assert comparable(analysis.store).identical(undisturbed)
    run, tasks = last_run()
    assert run.state and run.state.is_completed()
    assert run.state.message == "10 checkpoints: 10 computed, 0 already complete"
    assert {task.name for task in tasks} >= {f"step {step}" for step in STEPS}
    assert all(task.state and task.state.is_completed() for task in tasks)
    assert 1 <= sum(task.run_count > 1 for task in tasks) <= Pool.IN_FLIGHT

    calls: list[str] = []
    monkeypatch.setattr(Pool, "_call", lambda self, method, *_: calls.append(method))
    again = run_analysis(analysis)
    assert (again.complete, again.computed, again.failed, calls) == (10, [], {}, [])


def workers() -> list[psutil.Process]:
    """The processes of our Ray that hold an actor."""
    processes = psutil.Process().children(recursive=True)
    return [found for found in processes if found.name().startswith("ray::Worker")]


@contextmanager
def command_midway(analysis: Any, folder: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """`ontogeny analyze` in a process group of its own on our Ray, with two checkpoints stored."""
    config = folder / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    connect(analysis.workers)
    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "analyze", str(config)],
        env={**os.environ, "RAY_ADDRESS": address, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    enough = 2 * len(analysis.measures)
    while process.poll() is None and committed(analysis) < enough:
        time.sleep(0.005)
    yield process
    assert enough <= committed(analysis) < len(STEPS) * len(analysis.measures)


def committed(analysis: Any) -> int:
    folder = Path(analysis.store) / "_commits"
    return sum(len(files) for _, _, files in os.walk(folder))


def test_a_killed_flow_goes_on_where_it_was(
    make_analysis: MakeAnalysis, undisturbed: Any, comparable: Comparable, tmp_path: Path
) -> None:
    analysis = make_analysis(workers={"count": 1})
    with command_midway(analysis, tmp_path) as process:
        process.kill()
        process.communicate()
    summary = run_analysis(analysis)
    assert 0 < len(summary.computed) < len(STEPS)
    assert comparable(analysis.store).identical(undisturbed)


def test_an_interrupted_flow_says_so_also_to_its_embedded_server(
    make_analysis: MakeAnalysis, tmp_path: Path
) -> None:
    analysis = make_analysis(workers={"count": 1})
    own = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "home")}
    with command_midway(analysis, tmp_path, **own) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of the group
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted: what was computed is kept")
    assert "Traceback" not in said
    with sqlite3.connect(tmp_path / "home" / "prefect.db") as records:
        assert records.execute("SELECT state_name FROM flow_run").fetchall() == [("Crashed",)]
