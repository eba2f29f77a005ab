"""Part: two workers of one device, as two processes, compute what each computes alone."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline import open_run
from pipeline.config import Analysis
from tests.benchmarks.workload import heavy_analysis, heavy_run
from tests.gpu.comparing import relative, values_of, worst_of
from tests.gpu.report import Report
from tests.gpu.small_runs import ROOT

# The same kernels on the same device; the order of sums could differ.
AT_MOST = 1e-5


def run(report: Report) -> None:
    """Compute a run in one process, then the same in two at once."""
    steps, sequences = (2, 16) if report.small else (12, 512)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        made = heavy_run(here / "run", steps)

        def analysis(name: str) -> Analysis:
            return _analysis(made, here / f"{name}.zarr", sequences, report.device)

        first, second = _Process(), _Process()
        try:
            first.ready(analysis("warm"))
            first.compute()
            first.ready(analysis("alone"))
            alone = first.compute()
            first.ready(analysis("a"))
            second.ready(analysis("warm-too"))
            second.compute()
            second.ready(analysis("b"))
            first.go()
            second.go()
            both = [first.result(), second.result()]
        finally:
            first.end()
            second.end()
        slowest = max(one["seconds"] for one in both)
        report.figure("seconds alone", alone["seconds"], "s", checkpoints=steps)
        report.figure("time of two at once over one alone", slowest / alone["seconds"])
        for name, one in zip(("a", "b"), both, strict=True):
            report.figure("peak memory", round(one["peak"] / 2**20), "MiB", process=name)
            _compare(report, here, name, steps)


def _analysis(run: Path, store: Path, sequences: int, device: str) -> Analysis:
    content: dict[str, Any] = heavy_analysis(run, store, 1).model_dump(mode="json")
    content["inputs"]["repeated"]["sequences"] = sequences
    content["measures"] = {"head_scores": {}, "token_loss.repeated": {}, "weight_norm": {}}
    content["measures"]["token_loss.repeated"] = {"early_token": 10, "late_token": 100}
    content["workers"] |= {"device": device}
    return Analysis.model_validate(content)


def _compare(report: Report, here: Path, name: str, steps: int) -> None:
    expected = values_of(open_run(here / "alone.zarr"))
    found = values_of(open_run(here / f"{name}.zarr"))
    rows = min(len(value) for value in found.values())
    report.figure("rows", rows, at_least=steps, process=name)
    worst = worst_of(relative(found[key], expected[key]) for key in expected)
    report.figure("difference from alone", worst, at_most=AT_MOST, process=name)


class _Process:
    """A process of `tests.gpu.one_worker`."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.gpu.one_worker"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def ready(self, analysis: Analysis) -> None:
        """Let it make a worker, and wait until it has."""
        self._write(analysis.model_dump_json())
        if (said := self._read()) != "ready":
            raise RuntimeError(f"expected a worker, found {said!r}")

    def go(self) -> None:
        """Let it compute."""
        self._write("go")

    def result(self) -> dict[str, float]:
        """Wait until it has computed; return seconds and peak memory."""
        return json.loads(self._read())

    def compute(self) -> dict[str, float]:
        """Let it compute, and wait."""
        self.go()
        return self.result()

    def end(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker's process ended: exit status {self._process.wait()}")
        return line.strip()
