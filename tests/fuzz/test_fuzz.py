"""Runs and inputs with a damaged file: one sentence each, and the other checkpoints as before.

The nightly form is `python -m tests.fuzz --mutations 2000 --seed N`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
def test_200_damaged_runs_are_one_sentence_each(tmp_path: Path) -> None:
    """In a process of its own, whose memory is that of the readers alone."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--mutations", "200", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    assert result.get("failures") == [] and done.returncode == 0, done.stderr[-6000:]
    assert result["mutations"] == 200
    assert result["worst_seconds"] < 10 and result["worst_mb"] < 500
