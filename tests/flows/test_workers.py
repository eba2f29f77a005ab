"""Ray actors: the code that they run, and the errors of those that cannot start."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flows.workers
from flows.workers import start_workers
from pipeline.analysis.job import Group, Job
from pipeline.checkpoints import Checkpoint
from pipeline.config import GroupOptions
from pipeline.errors import InputError
from pipeline.measures import measure_class
from tests.flows.conftest import MakeAnalysis

pytestmark = pytest.mark.timeout(600)  # on a busy machine an actor takes a minute to start

COMMAND = "from ontogeny import main; main()"


@pytest.fixture
def job(make_analysis: MakeAnalysis) -> Job:
    return Job(make_analysis(workers={"count": 1}), Checkpoint(0, "nowhere"), (), {})


class Dies:
    def __init__(self, job: Job) -> None:
        os._exit(1)


class Refuses:
    def __init__(self, job: Job) -> None:
        raise InputError(f"no model in {job.architecture.uri}")


class Answers:
    def __init__(self, job: Job) -> None:
        self.job = job

    def compute(self, number: int) -> tuple[int, str]:
        return number + 1, self.job.architecture.uri


class Measures:
    def __init__(self, job: Job) -> None:
        (group,) = job.groups
        self.measure = group.measure

    def compute(self, factor: float) -> tuple[str, float]:
        return type(self.measure).__module__, self.measure.scaled(factor)  # type: ignore


def test_a_worker_that_dies_while_it_starts_ends_the_run_with_the_reason(job: Job) -> None:
    with pytest.raises(InputError, match="died 3 times before it could begin"):
        start_workers(job, Dies)


def test_what_a_construction_raises_is_raised_as_it_is(job: Job) -> None:
    with pytest.raises(InputError, match=r"^no model in nowhere$"):
        start_workers(job, Refuses)


def test_a_worker_with_other_code_than_the_driver_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.workers, "code_digest", lambda: "another")
    with pytest.raises(InputError, match="install the same version of ontogeny on every machine"):
        start_workers(job, Answers)


def test_a_killed_actor_has_one_successor_however_many_wait_for_it(job: Job) -> None:
    (worker,) = start_workers(job, Answers)
    pending = [worker.send("compute", number) for number in (1, 2)]
    assert [worker.receive(one, 60) for one in pending] == [(2, "nowhere"), (3, "nowhere")]
    first = worker._actor
    waiting = [worker.send("compute", number) for number in (1, 2)]
    worker.replace()
    second = worker._actor
    assert second is not first
    for one in waiting:
        with suppress(flows.workers.WorkerLostError):  # it may have answered before it was killed
            worker.receive(one, 60)
    assert worker._actor is second
    worker.stop()


def test_a_measure_of_the_users_own_needs_no_file_where_the_worker_runs(
    job: Job, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from pipeline import Measure, Variable\n"
        "class Scaled(Measure):\n"
        '    """A number."""\n'
        '    name, version, default_input = "scaled", 1, None\n'
        '    variables = (Variable("number", ("step",), "1", "A number."),)\n'
        "    unit: float = 1.0\n"
        "    def scaled(self, factor):\n"
        "        return self.unit * factor\n"
    )
    measure = measure_class(f"{file}:Scaled")(unit=3.0)
    file.unlink()
    group = Group("scaled", measure, None, GroupOptions())
    (worker,) = start_workers(replace(job, groups=(group,)), Measures)
    module, number = worker.receive(worker.send("compute", 2.0), 60)
    worker.stop()
    assert module == type(measure).__module__ and number == 6.0


@pytest.mark.usefixtures("server")
def test_packages_of_the_same_names_in_the_folder_are_not_imported(
    make_analysis: MakeAnalysis, tmp_path: Path
) -> None:
    evil = "raise SystemError('a module of the user was imported')"
    (tmp_path / "pipeline.py").write_text(evil)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text(evil)
    analysis: Any = make_analysis(measures=["weight_norm"], inputs={}, workers={"count": 1})
    (tmp_path / "a.yaml").write_text(analysis.model_dump_json())
    here = {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, "analyze", "a.yaml"],
        cwd=tmp_path,
        env={**os.environ, **here},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "10 computed" in ran.stdout
