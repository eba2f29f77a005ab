"""Runs that are ended by a signal leave no process, no temporary file and no damaged row."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows import cleaner
from pipeline import Analysis, analyze
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.verify import verify
from tests.benchmarks.killed_runs import ROOT, Observed, content, slow_analysis
from tests.benchmarks.servers import free_port
from tests.flows.test_cli import errors_in

pytestmark = pytest.mark.timeout(900)  # on a busy machine each process takes a minute to start
SECONDS = 120.0  # in which everything has to be gone, on such a machine


# Starts children as Prefect and Ray do, prints their numbers, and waits.
PARENT = """
import os, subprocess, sys, time
from flows import cleanup
sleep = "import time; time.sleep(600)"
# As Ray's processes do: the title goes where the environment was.
title = "from ray._raylet import setproctitle; setproctitle('x' * 4000); print(1, flush=True); "
with cleanup.covered() as folder:
    titled = subprocess.Popen([sys.executable, "-c", title + sleep], stdout=subprocess.PIPE)
    children = [
        subprocess.Popen([sys.executable, "-c", sleep]),  # holds the pipes
        subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True),
        titled,
    ]
titled.stdout.readline()
(folder / "log").touch()
nothing = subprocess.DEVNULL
other = subprocess.Popen(["tail", "-f", folder / "log"], stdout=nothing, stderr=nothing)
print(folder, *(child.pid for child in (*children, other)), flush=True)
time.sleep(float(sys.argv[1]))
"""


# A command whose end does not come.
ENDLESS = """
import sys, time
import flows.cli
module = sys.modules["flows.cli.app"]
assert module._SECONDS_TO_END == 10
module._SECONDS_TO_END = 1.0
@module.app.command()
def endless():
    try:
        print("started", flush=True)
        time.sleep(600)
    finally:
        time.sleep(600)
module.app(["endless"])
"""


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, None])
def test_what_a_run_started_ends_with_it(number: signal.Signals | None) -> None:
    seconds = "0" if number is None else "600"
    run = subprocess.Popen(
        [sys.executable, "-c", PARENT, seconds], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    folder, *numbers = run.stdout.readline().decode().split()
    *children, other = map(int, numbers)
    try:
        if number is not None:
            assert all(map(alive, [*children, other])) and Path(folder).is_dir()
            run.send_signal(number)
        run.communicate(timeout=SECONDS)  # returns only when no process holds the pipes
        assert wait_until(lambda: not any(map(alive, children)))
        assert wait_until(lambda: not Path(folder).exists())
        assert alive(other)  # of somebody who only reads in the folder
    finally:
        psutil.Process(other).kill()


def test_a_command_whose_end_does_not_come_is_ended() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    ) as run:
        try:
            assert run.stdout is not None and run.stdout.readline() == "started\n"
            run.terminate()
            _, said = run.communicate(timeout=SECONDS)
        finally:
            run.kill()
    assert run.returncode == 143
    assert errors_in(said) == ["terminated: computed results are kept, run it again to continue"]


@pytest.fixture
def config(organisms: Path, tmp_path: Path) -> Path:
    """Return the file of an analysis whose slow steps take as long as SECONDS_OF_SLOW says."""
    analysis = slow_analysis(tmp_path, organisms / "run")
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis | {"store": str(tmp_path / "store.zarr")}))
    return config


@pytest.fixture
def start(config: Path, tmp_path: Path) -> Iterator[Callable[..., Observed]]:
    """Return the function that starts a run with options, and with a Prefect server of its own."""
    own = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "home"), "SECONDS_OF_SLOW": "600"}
    command = [sys.executable, str(ROOT / "ontogeny.py"), "analyze", str(config)]
    started = []

    def start(*options: str) -> Observed:
        started.append(Observed([*command, *options], **own))
        return started[-1]

    yield start
    for run in started:
        for process in run.left():
            process.kill()


def midway(run: Observed, store: Path) -> None:
    """Wait until a run has committed two checkpoints of two measures."""
    wait_until(lambda: run.wait(0.1) or files_below(store / "packs") == 4, 400)
    if run.process.poll() is not None:
        pytest.fail(f"the run ended: {run.process.communicate()}")


def files_below(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


@pytest.mark.parametrize(
    ("number", "code", "how"),
    [
        (signal.SIGHUP, 129, "hung up"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
    ],
)
def test_a_signal_ends_a_run_with_one_sentence_and_its_exit_code(
    start: Callable[..., Observed], number: signal.Signals, code: int, how: str, tmp_path: Path
) -> None:
    run = start("--serial")
    midway(run, tmp_path / "store.zarr")
    run.process.send_signal(number)  # twice: as `timeout` does, and a shell and its terminal
    seconds, _, said = run.end(number, SECONDS)
    assert seconds < SECONDS and run.process.returncode == code
    assert errors_in(said) == [f"{how}: computed results are kept, run it again to continue"]
    store = Store(str(tmp_path / "store.zarr"))
    with owned(store):  # raises if the store is still owned
        # Which two depends on the thread that comes first: a step in front of them may be the slow
        # one.
        assert len({commit.step for commit in store.commits()}) == 2


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGKILL, signal.SIGKILL), (signal.SIGTERM, signal.SIGHUP)]
)
def test_a_flow_leaves_no_process_and_no_damaged_row(
    start: Callable[..., Observed],
    first: signal.Signals,
    second: signal.Signals,
    config: Path,
    tmp_path: Path,
) -> None:
    """Send a signal while Ray starts, and another in the middle of the computation."""
    at_start = start()
    wait_until(lambda: at_start.wait(0.1) or "raylet" in at_start.collect(), 400)
    seconds, _, said = at_start.end(first, SECONDS)
    assert seconds < SECONDS
    if first == signal.SIGTERM:
        assert at_start.process.returncode == 143
        assert said.splitlines()[-1].startswith("terminated: computed results are kept")

    run = start()
    midway(run, tmp_path / "store.zarr")
    folders = folders_of(run)
    assert folders
    seconds, _, said = run.end(second, SECONDS)
    assert seconds < SECONDS
    assert wait_until(lambda: not any(folder.exists() for folder in folders))
    if second == signal.SIGHUP:
        assert run.process.returncode == 129
        assert said.splitlines()[-1].startswith("hung up: computed results are kept")

    analysis = json.loads(config.read_text())
    summary = analyze(Analysis.model_validate(analysis))
    assert summary.worked and summary.complete == 2
    undisturbed = {**analysis, "store": str(tmp_path / "undisturbed.zarr")}
    assert analyze(Analysis.model_validate(undisturbed)).worked
    assert not verify(Store(analysis["store"])).faults
    assert content(analysis["store"]).identical(content(undisturbed["store"]))


def folders_of(run: Observed) -> set[Path]:
    """Return the temporary folders of a run, which its cleaner is to delete."""
    commands = [one.cmdline() for one in run.process.children(recursive=True)]
    return {Path(one[-1]) for one in commands if cleaner.__file__ in one}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGHUP, 129)])
def test_a_persistent_server_ends_with_its_command(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    port = str(free_port())
    command = [sys.executable, str(ROOT / "ontogeny.py"), "ui", "--port", port]
    ui = Observed(command, PREFECT_API_URL="", PREFECT_HOME=str(tmp_path / "home"))
    wait_until(lambda: ui.wait(0.1) or listens(int(port)), 400)
    assert ui.process.poll() is None
    seconds, *_ = ui.end(number, SECONDS)
    assert seconds < SECONDS and ui.process.returncode == code
    assert not listens(int(port))


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
