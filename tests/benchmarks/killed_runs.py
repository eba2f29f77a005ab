"""Send signals to runs of the command at random moments; count what they leave behind.

    python tests/benchmarks/killed_runs.py [--json] [--kills 10] [--seed 0] [--serial]
                                           [--signals KILL HUP TERM INT]

For each signal, an analysis is started again and again and gets the signal at a random moment of
the time that an undisturbed one takes. Then it is run to its end and its store is verified.

left: processes of a run that were alive 20 s after the signal. slowest: the seconds after which the
last process of a run had ended, at most. rows_wrong: faults that `verify` found, and stores that
are not identical to an undisturbed one. codes: how often each exit code was seen. Exit code 1 if
anything was left or wrong.
"""

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

import psutil

from pipeline import Analysis, analyze, open_run
from pipeline.store import Store
from pipeline.store.verify import verify

ROOT = Path(__file__).parents[2]
SLOW = '''
import os, time
import numpy as np
from pipeline import Measure, Variable

computed = []

class Slow(Measure):
    """A number that takes its time from the third on, so that a signal arrives in between."""

    name, version, default_input = "slow", 1, None
    variables = (Variable("number", ("step",), "1", "A number.", dtype="float64"),)

    def compute(self, context):
        computed.append(1)
        if len(computed) > 2:
            time.sleep(float(os.environ.get("SECONDS_OF_SLOW", "0")))
        return {"number": np.float64(sum(one.numel() for one in context.weights.values()))}
'''
SIGNALS = ("KILL", "HUP", "TERM", "INT")
SECONDS = 20.0  # in which everything has to be gone
STEPS = 12


@dataclass
class Counts:
    """Counts of signals and of their consequences."""

    signals: int = 0
    left: int = 0
    slowest: float = 0.0
    rows_wrong: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    @property
    def harmless(self) -> bool:
        return self.left == self.rows_wrong == 0


class Observed:
    """A process of the command, and every process that it has started.

    The descendants are collected while it runs, and at the end by a mark in their environment.
    """

    def __init__(self, command: Sequence[str], **variables: str) -> None:
        self._mark = secrets.token_hex(8)
        environment = os.environ | {"TEST_OF_KILLED_RUNS": self._mark} | variables
        self.process = psutil.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # A shell's background jobs ignore SIGINT, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self._seen: set[psutil.Process] = {self.process}

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it ends; return whether it has ended. Collects its descendants."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            self.collect()
            time.sleep(0.2)
        return self.process.poll() is not None

    def collect(self) -> set[str]:
        """Note the present descendants; return the names of all that were noted."""
        with suppress(psutil.NoSuchProcess):
            self._seen |= set(self.process.children(recursive=True))
        return {process.name() for process in self._seen if process.is_running()}

    def left(self) -> list[psutil.Process]:
        """Return its processes that are alive."""
        self._seen |= {one for one in psutil.process_iter() if self._marked(one)}
        return [one for one in self._seen if _alive(one)]

    def end(self, number: signal.Signals, most: float = SECONDS) -> tuple[float, str, str]:
        """Send the signal; return the seconds until all has ended, and what was printed.

        The seconds are infinite if a process was left after `most`; it is killed then.
        """
        self.collect()
        sent = time.monotonic()
        self.process.send_signal(number)
        # Returns when no process holds the pipes.
        try:
            printed = self.process.communicate(timeout=most)
        except subprocess.TimeoutExpired:
            printed = (b"", b"the pipes are still held")
        while (left := self.left()) and time.monotonic() - sent < most:
            time.sleep(0.1)
        seconds = float("inf") if left else time.monotonic() - sent
        for one in left:
            with suppress(psutil.NoSuchProcess):
                print(f"left after SIG{number.name[3:]}: {one}", file=sys.stderr)
                one.kill()
        return seconds, *(text.decode(errors="replace") for text in printed)

    def _marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TEST_OF_KILLED_RUNS") == self._mark
        except psutil.Error:
            return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def content(store: str) -> Any:
    """Return the content of a store for comparison."""
    return open_run(store).map_over_datasets(lambda one: one.drop_vars("uri", errors="ignore"))


def slow_analysis(folder: Path, checkpoints: Path) -> dict[str, Any]:
    """Return an analysis, without a store, of which SECONDS_OF_SLOW says how long a step takes."""
    (folder / "slow.py").write_text(SLOW)
    return {
        "checkpoints": str(checkpoints),
        "inputs": {},
        "measures": ["weight_norm", f"{folder / 'slow.py'}:Slow"],
        "workers": {"count": 1},
    }


@contextmanager
def _undisturbed(folder: Path) -> Iterator[dict[str, Any]]:
    """Write checkpoints and an undisturbed store; yield the analysis without its store."""
    import torch

    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    config = OrganismConfig(vocab_size=32, hidden_size=32, num_attention_heads=4)
    for step in range(STEPS):
        torch.manual_seed(step)
        OrganismForCausalLM(config).save_pretrained(folder / "run" / f"step-{step}")
    given = slow_analysis(folder, folder / "run")
    analyze(Analysis.model_validate(given | {"store": str(folder / "undisturbed.zarr")}))
    yield given


def disturb(number: signal.Signals, kills: int, dice: random.Random, given: Any, folder: Path,
            serial: bool, counts: Counts) -> None:  # fmt: skip
    """Send one signal so many times to runs that go on with each other's store."""
    how = ["--serial"] if serial else []
    # Without a server of the user, each run starts its own.
    own = {"PREFECT_API_URL": "", "PREFECT_HOME": str(folder / "home"), "SECONDS_OF_SLOW": "0.5"}
    takes = None
    for attempt in range(kills + 1):
        store = str(folder / f"{number.name}-{attempt}.zarr")
        config = folder / f"{number.name}-{attempt}.json"
        config.write_text(json.dumps(given | {"store": store}))
        command = [sys.executable, str(ROOT / "ontogeny.py"), "analyze", str(config)]
        if takes is None:  # the first is not disturbed: it says how long a run takes
            started = time.monotonic()
            run = Observed([*command, *how], **own)
            run.wait(1200)
            takes = time.monotonic() - started
            continue
        run = Observed([*command, *how], **own)
        run.wait(dice.uniform(0, takes))
        seconds, _, said = run.end(number)
        counts.signals += 1
        counts.left += seconds == float("inf")
        counts.slowest = max(counts.slowest, min(seconds, SECONDS))
        code = f"{number.name[3:]} {run.process.returncode}"
        counts.codes[code] = counts.codes.get(code, 0) + 1
        if "Traceback" in said:
            print(said, file=sys.stderr)
        counts.rows_wrong += not analyze(Analysis.model_validate(given | {"store": store})).worked
        counts.rows_wrong += len(verify(Store(store)).faults)
        counts.rows_wrong += not content(store).identical(content(str(folder / "undisturbed.zarr")))
        print(f"{time.strftime('%H:%M:%S')} {number.name}: {counts}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send signals to runs; count what is left.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, default=10, help="of each signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serial", action="store_true", help="runs without Ray and Prefect")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    asked = parser.parse_args()
    counts, dice = Counts(), random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder, _undisturbed(Path(folder)) as given:
        for name in asked.signals:
            number = signal.Signals[f"SIG{name}"]
            disturb(number, asked.kills, dice, given, Path(folder), asked.serial, counts)
    if asked.json:
        print(json.dumps(asdict(counts)))
    else:
        print(", ".join(f"{key} {value}" for key, value in asdict(counts).items()))
    sys.exit(0 if counts.harmless else 1)


if __name__ == "__main__":
    main()
