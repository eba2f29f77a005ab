"""The batch script on a real Slurm: two nodes, half a GPU per worker, a preemption."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.clusters.slurm import PROGRAMS, Slurm

if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
    pytest.skip(f"needs a component: {', '.join(missing)}", allow_module_level=True)
if os.geteuid():
    pytest.skip("Slurm's daemons, as they are set up here, run as root", allow_module_level=True)

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    # Not in pytest's temporary folder: the paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Slurm(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.mark.timeout(900)  # it starts Ray on two nodes, three times
@pytest.mark.usefixtures("server")
def test_a_timed_out_and_preempted_job_resumes_and_completes_the_store(
    slurm: Slurm, make_analysis: Callable[..., Any], tmp_path: Path
) -> None:
    slow = {"kind": "repeated", "block_length": 10, "sequences": 4000}
    analysis = make_analysis(
        inputs={"repeated": slow},
        measures=["head_scores"],
        workers={"count": 4, "cpus": 0.5, "gpus": 0.5},
    )
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    options = ["--nodes=2", "--memory=2", "--time=10", "--grace=30", "--option=--partition=low"]
    environment = {**os.environ, **slurm.environment}
    sent = subprocess.run(
        [sys.executable, "-m", "ontogeny", "submit", "slurm", str(config), *options, "--send"],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    number = int(sent.stdout.split()[-1])
    log = tmp_path / f"ontogeny-store-{number}.log"

    def ended() -> bool:
        return slurm.job(number)["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")

    def wait_for_rows(rows: int, restarts: int) -> None:
        def there() -> bool:
            job = slurm.job(number)
            # A job that is requeued waits first, and may have stored so many rows before.
            is_running = (job["JobState"], job["Restarts"]) == ("RUNNING", str(restarts))
            return is_running and len(stored(analysis.store)) >= rows

        slurm.wait_for(lambda: ended() or there(), seconds=300)
        assert not ended(), log.read_text()

    wait_for_rows(2, restarts=0)
    assert slurm.run("squeue", "-h", "-s", "-o", "%N") != ""
    # As Slurm does `--grace` seconds before the time limit.
    slurm.run("scancel", "--batch", "--signal=USR1", str(number))

    wait_for_rows(4, restarts=1)
    urgent = ["sbatch", "--partition=high", "--nodes=2", "--wait", "--wrap", "true"]
    subprocess.run(urgent, env=environment, cwd=tmp_path, check=True, timeout=100)
    slurm.wait_for(ended, seconds=300)

    job, said = slurm.job(number), log.read_text()
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("COMPLETED", "2", "0:0"), said
    assert stored(analysis.store) == STEPS
    (found,) = re.findall(r"10 checkpoints: (\d+) computed, (\d+) already complete", said)
    assert int(found[0]) + int(found[1]) == 10
    assert int(found[1]) >= 4


def stored(store: str) -> list[int]:
    rows = Path(store).glob("packs/*/head_scores/*")
    return sorted(int(path.name.partition(".")[0]) for path in rows)
