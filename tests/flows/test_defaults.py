"""The command with its defaults (its own Ray and Prefect server), and one bad checkpoint."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BAD = 4


@pytest.mark.timeout(900)  # two servers and three imports of torch, on a machine that may be busy
def test_a_truncated_checkpoint_is_named_and_the_others_are_computed(
    organisms: Path,
    make_analysis: Callable[..., Any],
    undisturbed: Any,
    comparable: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(organisms / "run", run)
    weights = run / f"step-{BAD}" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    events = tmp_path / "events"
    analysis = make_analysis(checkpoints=str(run), log_to={"tensorboard": str(events)})
    (tmp_path / "analysis.yaml").write_text(json.dumps(analysis.model_dump(mode="json")))

    ended = _ontogeny("analyze", "analysis.yaml", "--json", folder=tmp_path)

    assert ended.returncode == 1, ended.stderr
    summary = json.loads(ended.stdout)
    others = [int(step) for step in undisturbed["weight_norm"].step if step != BAD]
    assert sorted(summary["computed"]) == others
    assert list(summary["failed"]) == [str(BAD)]
    assert str(weights) in summary["failed"][str(BAD)]
    assert any(f"sent to tensorboard: {events}" in note for note in summary["notes"])
    assert list(events.rglob("*tfevents*"))
    assert ended.stderr.splitlines()[-2:] == [
        summary["failed"][str(BAD)], f"1/10 checkpoints failed: [{BAD}]",
    ]  # fmt: skip
    assert Path(summary["report"]).is_file()
    stored = comparable(analysis.store)
    assert stored.children.keys() == undisturbed.children.keys()
    for name, group in undisturbed.children.items():
        assert stored[name].to_dataset().identical(group.to_dataset().drop_sel(step=BAD))
    _check_records(tmp_path / "home" / "prefect.db", others)


def _ontogeny(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "ontogeny", *arguments],
        cwd=folder,
        env=env | {"PREFECT_HOME": str(folder / "home"), "PREFECT_API_URL": ""},  # "": none
        capture_output=True,
        text=True,
        timeout=800,
    )


def _check_records(database: Path, computed: list[int]) -> None:
    """Check the records of the embedded server, which has ended with the command."""
    with sqlite3.connect(database) as records:
        tasks = records.execute("SELECT name, state_type, run_count FROM task_run").fetchall()
        (flow,) = records.execute("SELECT state_name, state_id FROM flow_run").fetchall()
        artifacts = {key for (key,) in records.execute("SELECT key FROM artifact")}
        (message,) = records.execute(
            "SELECT message FROM flow_run_state WHERE id = ?", (flow[1],)
        ).fetchone()
    assert (flow[0], message) == ("Failed", f"1/10 checkpoints failed: [{BAD}]")
    states = {name: state for name, state, _ in tasks}
    assert states.pop(f"step {BAD}") == "FAILED"
    assert states.keys() >= {f"step {step}" for step in computed}
    assert set(states.values()) == {"COMPLETED"}
    kinds = {str(key).partition("-")[0] for key in artifacts}
    assert kinds == {"audit", "checkpoints", "findings", "progress", "report"}
    others = ("audit", "prepare", "reference", "trajectories", "trackers", "report")
    assert len(tasks) == len(computed) + 1 + len(others)
    assert {count for _, _, count in tasks} == {1}
