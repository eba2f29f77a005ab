"""Runs that are ended by a signal leave no process, no temporary file and no damaged row."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.store import Store
from pipeline.store.lease import owned
from tests.flows.conftest import MakeAnalysis

pytestmark = pytest.mark.timeout(600)

SECONDS = 20.0  # in which everything has to be gone

# Starts children as Prefect and Ray do, prints their numbers, and waits.
PARENT = """
import os, subprocess, sys, time
from flows import cleanup
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
with cleanup.covered() as folder:
    with (folder / "worker.log").open("w") as log:
        children = [
            subprocess.Popen(sleep),  # holds the pipes
            subprocess.Popen(sleep, start_new_session=True),
            # As a program that has written its title over its environment.
            subprocess.Popen(sleep, stdout=log, stderr=log, env={}, start_new_session=True),
        ]
others = [subprocess.Popen(["tail", "-f", folder / "worker.log"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)]
print(folder, *(child.pid for child in (*children, *others)), flush=True)
time.sleep(float(sys.argv[1]))
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


# The command, which waits in a step of the serial loop.
SLOW = """
import sys, time
from pipeline.analysis.worker import Worker
compute = Worker.compute
def slow(self, cell, plan):
    if cell.checkpoint.step >= 2:
        time.sleep(600)
    return compute(self, cell, plan)
Worker.compute = slow
from flows.cli import app
app(sys.argv[1:])
"""


@pytest.fixture
def serial_run(make_analysis: MakeAnalysis, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a serial run that has committed two checkpoints and computes the third."""
    analysis = make_analysis(measures=["weight_norm"], inputs={})
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    command = [sys.executable, "-c", SLOW, "analyze", str(config), "--serial"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        packs = tmp_path / "store.zarr" / "packs"
        wait_until(lambda: run.poll() is not None or files_below(packs) == 2, 300)
        yield run
        run.kill()


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
    serial_run: subprocess.Popen[str], number: signal.Signals, code: int, how: str, tmp_path: Path
) -> None:
    for _ in range(2):  # as `timeout` does, and a shell and its terminal
        serial_run.send_signal(number)
    _, said = serial_run.communicate(timeout=SECONDS)
    assert serial_run.returncode == code
    assert said == f"{how}: computed results are kept, run it again to continue\n"
    store = Store(str(tmp_path / "store.zarr"))
    with owned(store):  # is free, which raises otherwise
        assert sorted({commit.step for commit in store.commits()}) == [0, 1]
