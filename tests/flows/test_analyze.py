"""The flow writes the store of the serial loop, also if workers or servers are killed."""

import json
import os
import shutil
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
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterTaskRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from safetensors.torch import load_file, save_file

import flows.analyze
import pipeline
from flows.analyze import run_analysis
from flows.artifacts import artifact_key
from flows.cluster import connect_to_ray
from flows.dispatch import IN_FLIGHT, Pool
from pipeline import analyze
from tests.benchmarks.servers import free_port, start_server
from tests.flows.slowed import slow_pool

MakeAnalysis = Callable[..., Any]
Comparable = Callable[[str], Any]

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
BROKEN = "model.layers.0.self_attn.q_proj.weight"
# A local Ray listens on the loopback interface, where clients look for a Ray only in this mode.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
SLOW_FROM = 2  # the checkpoints from this step on are slow

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture(scope="module", autouse=True)
def ray_ends_with_this_module() -> Iterator[None]:
    yield
    ray.shutdown()


def last_run() -> tuple[FlowRun, list[TaskRun]]:
    """Return the latest flow run of the server, and its task runs."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)
        this = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        return run, client.read_task_runs(flow_run_filter=this, limit=200)


HANGS = 64


@pytest.mark.timeout(600)  # on a busy machine a worker takes a minute to come back
def test_killed_and_hung_workers_leave_the_store_of_the_serial_loop(
    make_analysis: MakeAnalysis,
    undisturbed: Any,
    comparable: Comparable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analysis = make_analysis(workers={"count": 1, "timeout": 10})
    killed: list[int] = []
    slow = slow_pool(SLOW_FROM, seconds=0.5, hangs=HANGS, hung=tmp_path / "hung")
    monkeypatch.setattr(flows.analyze, "make_pool", slow)

    def kill_one(done: int, total: int, what: str) -> None:
        if done == 2:
            killed.append(workers()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    summary = run_analysis(analysis, kill_one)
    assert killed and (tmp_path / "hung").exists()
    assert (sorted(summary.computed), summary.complete, summary.failed) == (STEPS, 0, {})
    assert comparable(analysis.store).identical(undisturbed)
    run, tasks = last_run()
    assert run.state and run.state.is_completed()
    assert run.state.message == "10 checkpoints: 10 computed, 0 already complete"
    assert {task.name for task in tasks} >= {f"step {step}" for step in STEPS}
    assert all(task.state and task.state.is_completed() for task in tasks)
    retried = {task.name for task in tasks if task.run_count > 1}
    assert f"step {HANGS}" in retried
    assert 2 <= len(retried) <= IN_FLIGHT + 1
    assert set(run.tags) == {"ontogeny", "analyze", "store"}
    assert run.name == "store: all steps"
    kinds = ("audit", "progress", "findings", "checkpoints", "report")
    assert artifacts_of(run) == {artifact_key(kind, analysis.store) for kind in kinds}
    (first,) = (task for task in tasks if task.name == "step 0")
    assert any("step 0: token_loss, " in line for line in log_of(first))

    calls: list[str] = []
    monkeypatch.setattr(Pool, "call", lambda self, method, *_: calls.append(method))
    again = run_analysis(analysis)
    assert (again.complete, again.computed, again.failed, calls) == (10, [], {}, [])


def test_what_is_not_finite_is_named_by_the_flow_as_by_the_loop(
    organisms: Path, make_analysis: MakeAnalysis, comparable: Comparable, tmp_path: Path
) -> None:
    for step, name, factor in ((1, "", 1.0), (2, BROKEN, torch.nan), (4, "lm_head.weight", 3e38)):
        shutil.copytree(organisms / "run" / f"step-{step}", tmp_path / "run" / f"step-{step}")
        file = tmp_path / "run" / f"step-{step}" / "model.safetensors"
        weights = {n: t * factor if n == name else t for n, t in load_file(file).items()}
        save_file(weights, file)
    measures = {"token_loss": {"early_token": 4, "late_token": 30}, "weight_norm": {}}
    changes = {"checkpoints": str(tmp_path / "run"), "measures": measures}
    serial = analyze(make_analysis(**changes, store=str(tmp_path / "serial.zarr")))
    summary = run_analysis(make_analysis(**changes))
    assert (sorted(summary.computed), summary.failed) == ([1, 4], {})
    assert (summary.masked, summary.not_finite) == (serial.masked, serial.not_finite)
    assert BROKEN in summary.masked[2] and "token_loss/mean (1 of 1)" in summary.not_finite[4]
    there, here = comparable(summary.store), comparable(serial.store)
    assert there.identical(here) and there.attrs == here.attrs
    run, tasks = last_run()
    assert run.state and run.state.is_failed()
    assert "masked by the audit: [2]; not finite: [4]" in str(run.state.message)
    (broken,) = (task for task in tasks if task.name == "step 2")
    assert broken.state and broken.state.is_failed() and broken.run_count == 1
    rows = {row["step"]: row for row in json.loads(artifact(run, "checkpoints", summary.store))}
    assert BROKEN in rows[2]["failure"] and "token_loss/loss" in rows[4]["not_finite"]
    assert "not finite at step 4: token_loss/loss" in artifact(run, "findings", summary.store)

    again = run_analysis(make_analysis(**changes))
    assert (again.computed, again.complete) == ([], 2)
    assert (again.masked, again.not_finite) == (serial.masked, serial.not_finite)


def artifact(run: FlowRun, kind: str, store: str) -> str:
    """Return the content of an artifact of a flow run."""
    key = artifact_key(kind, store)
    with get_client(sync_client=True) as client:
        this = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        (found,) = (one for one in client.read_artifacts(artifact_filter=this) if one.key == key)
        return str(found.data)


def test_a_bad_config_fails_its_checkpoint_in_flow_and_loop_alike(
    make_analysis: MakeAnalysis, comparable: Comparable, tmp_path: Path
) -> None:
    shutil.copytree(make_analysis().checkpoints, tmp_path / "run")
    (tmp_path / "run/step-2/config.json").write_text("{")
    (tmp_path / "run/step-256/config.json").unlink()
    chosen = {"checkpoints": str(tmp_path / "run"), "measures": {"weight_norm": {}}}
    to = {"tensorboard": str(tmp_path / "tb")}
    flow = make_analysis(**chosen, workers={"count": 1}, log_to=to)
    loop = make_analysis(**chosen, store=str(tmp_path / "loop"))
    by_flow, by_loop = run_analysis(flow), pipeline.analyze(loop)
    assert by_flow.failed == by_loop.failed and list(by_flow.failed) == [2, 256]
    assert comparable(flow.store).identical(comparable(loop.store))
    run, tasks = last_run()
    assert run.state and run.state.is_failed() and "[2, 256]" in str(run.state.message)
    assert any(task.name.startswith("trackers-") for task in tasks)
    assert any("sent to tensorboard" in note for note in by_flow.notes)
    assert list((tmp_path / "tb").glob("events.out.tfevents.*"))


def artifacts_of(run: FlowRun) -> set[str | None]:
    with get_client(sync_client=True) as client:
        this = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return {artifact.key for artifact in client.read_artifacts(artifact_filter=this)}


def log_of(task: TaskRun) -> list[str]:
    """Return the log of a task, which includes that of its worker."""
    with get_client(sync_client=True) as client:
        this = LogFilter(task_run_id=LogFilterTaskRunId(any_=[task.id]))
        return [log.message for log in client.read_logs(log_filter=this)]


def workers() -> list[psutil.Process]:
    """Return the processes of our Ray that run an actor."""
    processes = psutil.Process().children(recursive=True)
    return [found for found in processes if found.name().startswith("ray::WorkerActor")]


@contextmanager
def command_midway(analysis: Any, folder: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """Run `ontogeny analyze` in its own process group until two checkpoints are stored."""
    config = folder / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    connect_to_ray(analysis.workers)
    address = ray.get_runtime_context().gcs_address
    slow = ["-m", "tests.flows.slowed", str(SLOW_FROM), "3600"]
    process = subprocess.Popen(
        [sys.executable, *slow, "analyze", str(config)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_ADDRESS": address, **ON_LOOPBACK, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    enough = 2 * len(analysis.measures)
    while process.poll() is None and committed(analysis) < enough:
        time.sleep(0.1)
    yield process
    assert committed(analysis) == enough


def committed(analysis: Any) -> int:
    folder = Path(analysis.store) / "packs"
    return sum(len(files) for _, _, files in os.walk(folder))


def wait_for_another_run(than: FlowRun) -> None:
    """Wait until another run than this one has started its first slow checkpoint."""
    while True:
        run, tasks = last_run()
        states = {task.name: task.state for task in tasks}
        state = states.get(f"step {SLOW_FROM}")
        if run.id != than.id and state and state.is_running():
            return
        time.sleep(0.2)


def flow_states(database: Path) -> list[str]:
    with sqlite3.connect(database) as records:
        return [state for (state,) in records.execute("SELECT state_name FROM flow_run")]


@pytest.mark.timeout(900)  # on a busy machine each process takes a minute to import and start
def test_a_run_that_was_killed_and_then_terminated_goes_on_where_it_was(
    make_analysis: MakeAnalysis, undisturbed: Any, comparable: Comparable, tmp_path: Path
) -> None:
    analysis = make_analysis(workers={"count": 1})
    with command_midway(analysis, tmp_path) as process:
        process.kill()
        process.communicate()
    killed, _ = last_run()

    with command_midway(analysis, tmp_path) as process:
        wait_for_another_run(killed)
        process.terminate()  # as a scheduler does that reclaims the machine
        _, said = process.communicate(timeout=300)
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("terminated: computed results are kept")
    run, _ = last_run()
    assert run.state and run.state.is_crashed()

    summary = run_analysis(analysis)
    assert (summary.complete, sorted(summary.computed)) == (2, STEPS[2:])
    assert comparable(analysis.store).identical(undisturbed)


@pytest.mark.timeout(900)  # on a busy machine each process takes a minute to import and start
def test_an_interrupted_flow_says_so_also_to_its_embedded_server(
    make_analysis: MakeAnalysis, tmp_path: Path
) -> None:
    analysis = make_analysis(workers={"count": 1})
    own = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "home")}
    with command_midway(analysis, tmp_path, **own) as process:
        os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted: computed results are kept")
    assert "Traceback" not in said
    assert flow_states(tmp_path / "home" / "prefect.db") == ["Crashed"]


@pytest.mark.timeout(900)
def test_a_run_outlives_a_prefect_server_that_does_not_come_back(
    make_analysis: MakeAnalysis, undisturbed: Any, comparable: Comparable, tmp_path: Path
) -> None:
    analysis = make_analysis(workers={"count": 1})
    port = free_port()
    own = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_CLIENT_MAX_RETRIES": "1",
    }
    server = start_server(own, port)
    (tmp_path / "analysis.yaml").write_text(json.dumps(analysis.model_dump(mode="json")))
    code = "import flows.fanout; flows.fanout._SERVER_SECONDS = 5; from flows.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "analyze", str(tmp_path / "analysis.yaml")],
        env={**os.environ, **own},
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not committed(analysis):
        time.sleep(0.01)
    server.kill()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert comparable(analysis.store).identical(undisturbed)
