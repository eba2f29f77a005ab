"""Part: the command `ontogeny analyze --serial` on the device, compared with the CPU's store.

The packaged analyses of the demonstration run over checkpoints of a brief training, in processes
that can import neither Ray nor Prefect. One is interrupted and run again; in one a shard is cut.
"""

import shutil
import tempfile
import time
from pathlib import Path

import torch

from pipeline import analyze, open_run
from pipeline.store import Store
from tests.gpu import small_runs
from tests.gpu.comparing import values_of, worst_by_measure
from tests.gpu.report import Report

# Beyond these, relative to the largest number of a variable, two devices do not only round apart.
# Scores of the brief training's last digits are magnified by some measures: see `measures.py`.
AT_MOST = 2e-3
OF_INTEGERS = 0.02
SECONDS = 240.0

SLOW = '''
import time
import numpy as np
from pipeline import Measure, Variable

class Slow(Measure):
    """The number of weights, after a pause in which a signal arrives."""

    name, version, default_input = "slow", 1, None
    variables = (Variable("number", ("step",), "1", "A number.", dtype="float64"),)

    def compute(self, context):
        time.sleep(1.0)
        return {"number": np.float64(sum(one.numel() for one in context.weights.values()))}
'''


def run(report: Report) -> None:
    """Run the command on the device, and the same analysis on the CPU in this process."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        environment = small_runs.without_ray_and_prefect(here)
        # Checkpoints 0, 8, …, and the last.
        run_ = small_runs.trained("induction", here / "induction", 40, 8)
        (here / "slow.py").write_text(SLOW)
        of_run = _Case(report, here, environment, "induction", run_)
        report.attempt("a signal, and what follows it", of_run.interrupted_and_resumed, needed=45)
        report.attempt("a cut shard", of_run.with_a_cut_shard, needed=25)
        if report.small:
            report.skip("modular-addition end to end", "small")
            return

        def of_tables() -> None:
            table = small_runs.trained("modular-addition", here / "modular", 400, 100)
            _Case(report, here, environment, "modular-addition", table).undisturbed()

        report.attempt("modular-addition end to end", of_tables, needed=30)


class _Case:
    """One packaged analysis of one run."""

    def __init__(
        self, report: Report, here: Path, environment: dict[str, str], preset: str, run: Path
    ) -> None:
        self.report, self.here, self.environment = report, here, environment
        self.preset, self.run = preset, run
        on_cpu = small_runs.write_analysis(
            here / f"{preset}-cpu.yaml", preset, run, here / f"{preset}-cpu.zarr",
            # Smaller batches than those of the command, so that a CPU is no exact copy either.
            {"device": "cpu", "memory": 2**21},
        )  # fmt: skip
        self.expected = on_cpu
        done = analyze(on_cpu)
        report.figure("failed on the CPU", len(done.failed), at_most=0, run=preset)

    def undisturbed(self) -> None:
        """Run the command once."""
        config = self._config("once", self.run)
        self._expect(self._ended(config), 0, "undisturbed")
        self._compare("once", "undisturbed")

    def interrupted_and_resumed(self) -> None:
        """Send SIGTERM after the first row; run the command again."""
        case = "SIGTERM"
        own = {f"{self.here / 'slow.py'}:Slow": {}}
        config = self._config(case, self.run, measures=self.expected.measures | own)
        process = small_runs.started(
            self.environment, self.here, "analyze", str(config), "--serial"
        )
        store, until = Store(str(self._store(case))), time.monotonic() + SECONDS
        while not _rows(store) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=SECONDS)[1]
        rows = _rows(store)
        self.report.figure("rows at the signal", rows, at_least=1, case=case)
        self.report.figure("exit code after the signal", process.returncode, at_least=1, case=case)
        self.report.figure("traceback", "Traceback" in said, at_most=0, case=case)
        self._expect(self._ended(config), 0, f"resumed after {case}")
        self._compare(case, f"resumed after {case}")

    def with_a_cut_shard(self) -> None:
        """Cut the weights of one checkpoint: it alone fails, by name, and the exit code is 1."""
        cut = self.here / f"{self.preset}-cut"
        shutil.copytree(self.run, cut)
        weights = cut / "step-16" / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2])
        code, said = self._ended(self._config("cut", cut))
        self._expect((code, said), 1, "a cut shard")
        self.report.figure("names the checkpoint", "step-16" in said, at_least=1, case="cut")
        self._compare("cut", "a cut shard", without=16)

    def _config(self, case: str, run: Path, **more: object) -> Path:
        file = self.here / f"{self.preset}-{case}.yaml"
        workers = {"device": self.report.device}
        small_runs.write_analysis(file, self.preset, run, self._store(case), workers, **more)
        return file

    def _store(self, case: str) -> Path:
        return self.here / f"{self.preset}-{case}.zarr"

    def _ended(self, config: Path) -> tuple[int, str]:
        process = small_runs.started(
            self.environment, self.here, "analyze", str(config), "--serial"
        )
        began = time.monotonic()
        out, error = process.communicate(timeout=SECONDS)
        seconds = round(time.monotonic() - began, 1)
        self.report.figure("seconds of the command", seconds, "s", case=config.stem)
        return process.returncode, out + error

    def _expect(self, ended: tuple[int, str], code: int, case: str) -> None:
        self.report.figure(
            "exit code", ended[0], at_least=code, at_most=code, case=case, run=self.preset
        )
        if ended[0] != code:
            self.report.fail(f"the command: {case}", ended[1][-2000:])

    def _compare(self, case: str, label: str, without: int | None = None) -> None:
        own, expected = open_run(self._store(case)), open_run(self.expected.store)
        if without is not None:
            expected = expected.map_over_datasets(
                lambda one: one.sel(step=one.step != without) if "step" in one.dims else one
            )
        found = {k: v for k, v in values_of(own).items() if not k.startswith("slow/")}
        for measure, variable, difference, of_integers in worst_by_measure(
            found, values_of(expected)
        ):
            self.report.figure(
                "share of integers that differ" if of_integers else "relative difference",
                difference, at_most=OF_INTEGERS if of_integers else AT_MOST,
                variable=f"{measure}/{variable}", case=label,
            )  # fmt: skip


def _rows(store: Store) -> int:
    """Return the committed rows of the measure with the pause; 0 before there is a store."""
    try:
        return len(store.commits("slow"))
    except Exception:  # the store is being made
        return 0
