"""The callback of transformers' Trainer: real trainings, with the real processes beside them."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline import InputError, open_run
from pipeline.callback import OntogenyCallback
from pipeline.callback.supervisor import Budget, Supervisor
from tests.pipeline.callback.training import ANALYSIS, trainer

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


def callback(folder: Path, share: float = 1.0, **more: Any) -> OntogenyCallback:
    store = {"store": f"{folder}.zarr"}
    return OntogenyCallback({**ANALYSIS, **store, **more.pop("analysis", {})}, share, **more)


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(True) if "pipeline.callback" in said(one)]


def said(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(true: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def history(one: Any) -> list[dict[str, float]]:
    """Return what a Trainer logged, without how long it took."""
    timed = ("runtime", "per_second")
    return [
        {key: value for key, value in entry.items() if not key.endswith(timed)}
        for entry in one.state.log_history
    ]


def test_the_training_is_the_same_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trainer(tmp_path / "plain")
    plain.train()
    after = torch.get_rng_state()
    (tmp_path / "run" / "tmp-checkpoint-9").mkdir(parents=True)  # a save that was cut off

    with_it = callback(tmp_path / "run")
    analysed = trainer(tmp_path / "run", [with_it])
    analysed.train()

    assert history(analysed) == history(plain)
    assert torch.equal(torch.get_rng_state(), after)
    weights = plain.model.state_dict()
    for name, tensor in analysed.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    run = open_run(with_it.store)
    assert list(run["head_scores"].step) == [2, 4, 6]
    norm = sum(float(tensor.double().square().sum()) for tensor in weights.values())
    assert float(run["weight_norm"]["sum_of_squares"][-1]) == pytest.approx(norm, rel=1e-6)
    assert any("sum of squares" in sentence for sentence in with_it.findings)
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in with_it.findings[:1])
    assert "note: left out, unfinished: 1 (tmp-checkpoint-9: " in printed
    assert not children()

    resumed = trainer(tmp_path / "run", [callback(tmp_path / "run")], steps=8)
    resumed.train(resume_from_checkpoint=True)
    assert list(open_run(with_it.store)["head_scores"].step) == [2, 4, 6, 8]


def test_a_failing_analysis_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = callback(tmp_path / "run", analysis={"measures": ["token_loss"]})
    with caplog.at_level(logging.WARNING, "pipeline.callback"):
        done = trainer(tmp_path / "run", [failing]).train()
    assert done.global_step == 6 and failing.findings == []
    assert (
        caplog.text.count("the analysis failed: measures.token_loss: reads the input") == 1
    )  # not once a checkpoint
    assert (
        "of 3 saved checkpoints, 3 (2, 4, 6) are not in the store: `ontogeny analyze`"
        in caplog.text
    )


def test_removed_checkpoints_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # With this share, nothing is analysed before the training has ended.
    late = callback(tmp_path / "run", share=1e-6)
    with caplog.at_level(logging.WARNING, "pipeline.callback"):
        trainer(tmp_path / "run", [late], save_total_limit=1).train()
    assert list(open_run(late.store)["weight_norm"].step) == [6]
    assert "of 3 saved checkpoints, 2 (2, 4) were removed before they were analysed" in caplog.text


def test_waiting_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    brief = callback(tmp_path / "run", wait=0)
    with caplog.at_level(logging.WARNING, "pipeline.callback"):
        trainer(tmp_path / "run", [brief]).train()
    assert "not all was analysed within 0 s: `ontogeny analyze`" in caplog.text
    assert not children()


def test_a_killed_training_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from tests.pipeline.callback.test_callback import callback\n"
        "from tests.pipeline.callback.training import trainer\n"
        f"folder = Path({str(tmp_path / 'run')!r})\n"
        "trainer(folder, [callback(folder, share=0.02)], steps=10**6, save_steps=50).train()\n"
    )
    training = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        of_it = psutil.Process(training.pid)
        started = wait_for(
            lambda: [one for one in of_it.children(True) if "callback.worker" in said(one)]
        )
        worker = started[0]
        wait_for(lambda: worker.status() == psutil.STATUS_STOPPED)  # it has used up its share
        beside = of_it.children(True)
        assert worker.nice() == 19
    finally:
        training.kill()
        training.wait()
    _, alive = psutil.wait_procs(beside, timeout=120)
    assert not alive


def test_a_killed_worker_is_said_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Kill(TrainerCallback):
        """Kills the first worker, as the kernel does where memory runs out."""

        def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                found = wait_for(
                    lambda: [one for one in children() if "callback.worker" in said(one)]
                )
                os.kill(found[0].pid, signal.SIGKILL)
                time.sleep(1)

    killed = callback(tmp_path / "run")
    with caplog.at_level(logging.WARNING, "pipeline.callback"):
        trainer(tmp_path / "run", [killed, Kill()]).train()
    assert "the process of the analysis has ended with code -9" in caplog.text
    assert list(open_run(killed.store)["weight_norm"].step) == [2, 4, 6]


def test_the_cpu_time_stays_within_the_share(tmp_path: Path) -> None:
    share, folder = 0.2, tmp_path / "run"
    trainer(folder, steps=2).train()
    limited = callback(folder, share)
    args, state = TrainingArguments(output_dir=str(folder), use_cpu=True), TrainerState()
    limited.on_train_begin(args, state, TrainerControl())
    began = time.monotonic()
    limited.on_save(args, state, TrainerControl())
    for _ in range(5):
        time.sleep(1)
        times = [one.cpu_times() for one in children()]
        used = sum(one.user + one.system for one in times)
        # Beside the share: half a second at once, and what starting Python takes until it counts.
        assert used < share * (time.monotonic() - began) + 0.5 + 0.3
    limited.on_train_end(args, state, TrainerControl())
    assert list(open_run(limited.store)["weight_norm"].step) == [2]


def test_only_the_first_process_analyses(tmp_path: Path) -> None:
    other = callback(tmp_path / "run")
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    state = TrainerState(is_world_process_zero=False, is_local_process_zero=True)
    for event in (other.on_train_begin, other.on_save, other.on_train_end):
        event(args, state, TrainerControl())
    assert other.store == "" and not children()


def test_what_is_wrong_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="share=0: expected a number above 0, at most 1"):
        callback(tmp_path / "run", share=0)
    with pytest.raises(
        InputError, match="OntogenyCallback: unknown key 'measure'; did you mean 'measures'"
    ):
        callback(tmp_path / "run", analysis={"measure": ["weight_norm"]})
    elsewhere = callback(tmp_path / "run", analysis={"checkpoints": str(tmp_path / "other")})
    with pytest.raises(InputError, match=r"the analysis is of .*other, but the Trainer saves in"):
        trainer(tmp_path / "run", [elsewhere]).train()


def test_unused_time_is_not_saved_up() -> None:
    budget = Budget(share=0.1)
    assert budget.update(seconds=1000, used=0)  # idle
    assert budget.update(seconds=0, used=0.4)
    assert not budget.update(seconds=0, used=0.6)  # 0.1 s over what may be taken at once
    assert not budget.update(seconds=0.9, used=0.6)
    assert budget.update(seconds=0.2, used=0.6)


def looked(**more: Any) -> dict[str, Any]:
    return {"kind": "looked", "failed": {}, "masked": [], "exceptions": [], "notes": [], **more}


def told(of: OntogenyCallback, caplog: pytest.LogCaptureFixture, **more: Any) -> str:
    """Return what a callback says of a last answer, after three checkpoints were saved."""
    of._saved = {2, 4, 6}
    message = {"kind": "findings", "findings": [], "steps": [], "last": looked(), **more}
    with caplog.at_level(logging.WARNING, "pipeline.callback"):
        of._tell(iter([message]))
    return caplog.text


def test_masked_steps_are_not_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = looked(masked=[4], exceptions=["step 4 is left out: a copy"])
    text = told(callback(tmp_path / "run"), caplog, steps=[2, 6], last=last)
    assert "step 4 is left out: a copy" in text and "3 saved checkpoints" not in text


def test_a_selection_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 4, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    selecting = callback(tmp_path / "run", analysis={"select": {"every": 2}})
    selecting._folder = tmp_path
    text = told(selecting, caplog, steps=[2, 6])
    assert "1 (4) are not in the store (`select` leaves some out)" in text


def test_results_that_cannot_be_read_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = told(callback(tmp_path / "run"), caplog, reason="OSError: the disk is away")
    assert "the results cannot be read: OSError: the disk is away" in text
    assert "saved checkpoints" not in text  # they may well be in the store


def test_a_last_request_outlives_a_worker(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    supervisor = Supervisor(json.dumps({"share": 1.0, "threads": 1}))
    supervisor._worker = subprocess.Popen(
        [sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    supervisor._busy, supervisor._answers = True, b'{"kind": "loo'
    supervisor._finishing = supervisor._wanted = True  # it dies while it answers the one before
    supervisor._bury()
    assert not supervisor._closed and supervisor._wanted and supervisor._answers == b""
    assert json.loads(capsysbinary.readouterr().out)["kind"] == "failed"

    supervisor._worker = subprocess.Popen(
        [sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    supervisor._wanted = False  # it dies at the last request: it is not asked again
    supervisor._bury()
    assert supervisor._closed
