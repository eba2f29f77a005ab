"""Experiments on real Ray workers and a real Prefect server, and their command."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName

from flows.experiments import Settings, run_experiments, run_serially
from pipeline.errors import InputError
from pipeline.experiments.experiment import Experiment, Outcome
from tests.pipeline.experiments.tiny import TINY

pytestmark = pytest.mark.slow


@contextmanager
def unseen(_: str):
    yield lambda *_: None


def settings(folder: Path) -> Settings:
    return Settings(folder, quick=False, text=None, workers=2)


def _fails(_: object):
    raise InputError("this one cannot be carried out")
    yield


def test_workers_find_what_the_serial_loop_finds(tmp_path, server, comparable):
    failing = Experiment("failing", "A failing experiment", (), _fails)
    error, made = run_experiments([failing, TINY], settings(tmp_path / "ray"), unseen)
    (serial,) = run_serially([TINY], settings(tmp_path / "serial"), unseen)
    assert isinstance(made, Outcome) and isinstance(serial, Outcome)
    assert made.findings == serial.findings
    for one, other in zip(made.stores, serial.stores, strict=True):
        assert Path(one).name == Path(other).name
        rows = [comparable(store)["weight_norm"].to_dataset() for store in (one, other)]
        assert rows[0].identical(rows[1])
    assert str(error) == "this one cannot be carried out"
    (run,), (failed,) = flow_runs("tiny"), flow_runs("failing")
    assert run.state.is_completed() and failed.state.is_failed()
    with get_client(sync_client=True) as client:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        tasks = client.read_task_runs(flow_run_filter=of_run)
        (table,) = client.read_artifacts(flow_run_filter=of_run)
    assert sorted(task.name for task in tasks) == ["modular-5, seed 0", "modular-5, seed 1"]
    assert table.key == "claims-tiny"
    assert json.loads(table.data)[0]["verdict"] == made.findings[0].verdict


def flow_runs(name: str):
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        )


def ontogeny(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
    return subprocess.run(
        [sys.executable, "-m", "ontogeny", "experiment", *arguments], text=True,
        capture_output=True, env=environment | {"PREFECT_HOME": str(home)},
    )  # fmt: skip


def test_the_command_lists_what_it_tests(tmp_path):
    from pipeline.experiments.registry import EXPERIMENTS

    listed = ontogeny("--list", "--json", home=tmp_path)
    assert listed.returncode == 0, listed.stderr
    claims = [(one["experiment"], one["claim"]) for one in json.loads(listed.stdout)]
    assert claims == [(one.name, of.name) for one in EXPERIMENTS.values() for of in one.claims]
    table = ontogeny("--list", home=tmp_path).stdout
    assert all(re.search(rf"^ *{name} ", table, re.MULTILINE) for name in EXPERIMENTS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name an experiment, or `all`"),
        (["smeared"], "there is no experiment 'smeared'"),
        (["steps", "--text", "absent.txt"], "absent.txt: there is no such file"),
        (["steps", "--text", __file__], "expected at least 8 MB"),
        (["steps", "--table", "absent/table.md"], "absent: there is no such folder"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, said, tmp_path):
    ended = ontogeny(*arguments, "--output", str(tmp_path / "out"), home=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr and not (tmp_path / "out").exists()
