"""A run tells its progress at once, every ten seconds, with counts and the time left."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flows.console
from flows.console import Lines, show_progress
from tests.flows.conftest import MakeAnalysis

# Ends the process as soon as it imports a slow library, and says which.
STOPPING = """
import os, sys
def stop(event, arguments):
    if event == "import" and arguments[0] in ("torch", "prefect"):
        print(f"imports {arguments[0]}", file=sys.stderr, flush=True)
        os._exit(3)
sys.addaudithook(stop)
from ontogeny import main
main()
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def lines(clock: Clock, written: list[str]) -> Lines:
    return Lines("analyse", "checkpoints", written.append, clock)


def test_each_thing_that_is_begun_is_a_line(lines: Lines, written: list[str]) -> None:
    lines.tell("starting Ray")
    lines.tell("building the model")
    assert written == ["analyse: starting Ray…", "analyse: building the model…"]


def test_silence_lasts_at_most_ten_seconds(lines: Lines, clock: Clock, written: list[str]) -> None:
    lines.tell("building the model")
    times = []
    for second in range(1, 36):
        clock.now, before = float(second), len(written)
        lines.remind()
        times += [second] if len(written) > before else []
    assert times == [10, 20, 30]
    assert written[1:] == [f"analyse: building the model… ({s} s)" for s in times]


def test_counts_are_repeated_with_the_time_left(
    lines: Lines, clock: Clock, written: list[str]
) -> None:
    lines.tell("computing 150 checkpoints")
    for done in range(1, 13):  # one in two seconds
        clock.now += 2
        lines(done, 150, f"step {done}, 3 failed")
    # After 5 of 150 in 10 s, 145 take 290 s; after 10 in 20 s, 140 take 280 s.
    assert written[1:] == [
        "analyse: 5 of 150 checkpoints (step 5, 3 failed), about 5 min left",
        "analyse: 10 of 150 checkpoints (step 10, 3 failed), about 5 min left",
    ]
    clock.now += 10  # nothing more is finished
    lines.remind()
    assert written[-1].startswith("analyse: 12 of 150 checkpoints (step 12, 3 failed), about ")
    lines(150, 150, "step 150")
    assert written[-1] == "analyse: 150 of 150 checkpoints (step 150)"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0 s"), (89, "89 s"), (150, "2 min"), (7200, "2 h")]
)
def test_durations_are_short(seconds: float, expected: str) -> None:
    assert flows.console._duration(seconds) == expected


def test_a_second_count_has_a_time_of_its_own(
    lines: Lines, clock: Clock, written: list[str]
) -> None:
    for _ in range(2):
        lines(1, 4, "step 0")
        clock.now += 10
        lines(2, 4, "step 1")
        clock.now += 1000
    assert written == [
        "analyse: 2 of 4 checkpoints (step 1), about 10 s left",
        "analyse: 1 of 4 checkpoints (step 0)",
        "analyse: 2 of 4 checkpoints (step 1), about 20 s left",
    ]


def test_what_was_done_before_counts_for_no_speed(
    lines: Lines, clock: Clock, written: list[str]
) -> None:
    lines.tell("continuing")
    clock.now += 10
    lines(501, 1000, "loss 1")
    clock.now += 10
    lines(511, 1000, "loss 1")  # ten in 10 s
    assert written[1:] == [
        "analyse: 501 of 1000 checkpoints (loss 1)",
        "analyse: 511 of 1000 checkpoints (loss 1), about 8 min left",
    ]


def test_a_thread_writes_while_the_work_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.console, "_SECONDS_BETWEEN_LINES", 0.5)
    with show_progress("analyse") as progress:
        progress.tell("working")
        written, until = "", time.monotonic() + 60
        while written.count("analyse: working… (") < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
            written += capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--serial",)])
def test_the_first_line_comes_before_slow_imports(
    options: tuple[str, ...], make_analysis: MakeAnalysis, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(make_analysis().model_dump_json())
    ran = subprocess.run(
        [sys.executable, "-c", STOPPING, "analyze", str(tmp_path / "a.yaml"), *options],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},  # no Ray is started here
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = ran.stderr.splitlines()
    assert ran.returncode == 3 and said[-1].startswith("imports "), ran.stderr
    assert said[0] == "analyse: starting…"
    assert all(line.startswith("analyse: ") for line in said[:-1]) and ran.stdout == ""


def test_the_loop_tells_its_stages(make_analysis: MakeAnalysis) -> None:
    from pipeline import analyze
    from pipeline.analysis.run import STAGES

    told: list[str] = []
    tell: Callable[[str], Any] = told.append
    analyze(make_analysis(measures=["weight_norm"], inputs={}), tell=tell)
    assert told == [
        STAGES["audit"], STAGES["prepare"], "building the model", "computing 10 checkpoints",
        STAGES["trajectories"],
    ]  # fmt: skip
