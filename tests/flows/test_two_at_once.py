"""Two analyses of one store: the second is refused until the first has ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store
from pipeline.store.lease import FOLDER
from tests.flows.conftest import STEPS
from tests.flows.test_cli import ontogeny


@pytest.fixture
def config(make_analysis: Callable[..., Any], tmp_path: Path) -> Path:
    analysis = make_analysis(measures=["weight_norm"], inputs={}, workers={"count": 1})
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    return config


@pytest.fixture
def stopped(config: Path, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Start an analysis, and stop its process by SIGSTOP while it owns the store."""
    command = [sys.executable, "-m", "ontogeny", "analyze", str(config), "--serial"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lease = tmp_path / "store.zarr" / FOLDER / "00000001.json"
    try:
        deadline = time.monotonic() + 120
        while not lease.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("server")
def test_the_second_is_refused_and_takes_over_from_the_dead(
    stopped: subprocess.Popen, config: Path, tmp_path: Path
) -> None:
    for how in ([], ["--serial"]):
        refused = ontogeny("analyze", config, *how)
        assert refused.exit_code == 2
        sentence = refused.stderr.splitlines()[-1]
        assert f"another analysis owns the store (process {stopped.pid} on" in sentence

    stopped.kill()
    stopped.wait()
    taken = ontogeny("analyze", config, "--serial")
    assert taken.exit_code == 0, (
        f"not taken over at once, where the owner is known to be dead: {taken.output}"
    )
    store = Store(str(tmp_path / "store.zarr"))
    assert sorted({commit.step for commit in store.commits()}) == list(STEPS)
