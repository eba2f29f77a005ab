"""Part: the device's memory really runs out; the batch is halved once, and the numbers stay.

On a card, a tensor is allocated that leaves less than a whole batch needs. On a CPU, the kernel
limits what the process may allocate (`tests/pipeline/engine/limited.py`).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from pipeline import analyze, open_run
from pipeline.analysis.job import Plan
from pipeline.analysis.plan import plan
from pipeline.analysis.preflight import prepare
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import Worker
from pipeline.config import Analysis
from pipeline.config.analysis import Selection
from pipeline.errors import CheckpointError
from pipeline.store import Store
from tests.benchmarks.workload import heavy_analysis, heavy_run
from tests.gpu.comparing import relative, values_of, worst_of
from tests.gpu.report import Report
from tests.gpu.small_runs import ROOT
from tests.pipeline.engine.test_memory import FRUGAL

# Batches of other sizes are summed in another order.
AT_MOST = 1e-4
MIB = 2**20
SENTENCE = "out of memory, also with half the batch"


def run(report: Report) -> None:
    """Let memory run out once and twice, and compare the halved rows with whole ones."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        if report.device == "cuda":
            _on_a_card(report, here)
        else:
            _on_a_cpu(report, here)


def _on_a_card(report: Report, here: Path) -> None:
    run_ = heavy_run(here / "run", steps=4)
    scarce = _large(heavy_analysis(run_, here / "scarce.zarr", 1))
    prepared = prepare(scarce, survey(scarce))
    planned, worker = plan(prepared, {}), Worker(prepared.job)
    needed = _needed(worker, planned, 0)
    report.figure("a whole batch needs", round(needed / MIB), "MiB")
    for cell, share, expected in ((1, 0.75, True), (2, 1.5, False)):
        with _Filled(leaving=int(share * needed)) as filled:
            halved = worker.compute(planned.cells[cell], planned).halved
        report.figure("memory left", round(filled.left / MIB), "MiB", share=share)
        report.figure(
            "the batch was halved", halved, at_least=expected, at_most=expected, share=share
        )
    with _Filled(leaving=int(0.05 * needed)):
        said = _refusal(worker, planned, 3)
    report.figure("twice: its sentence", SENTENCE in said, at_least=1)
    report.figure("twice: said", said[:300])
    whole = scarce.model_copy(update={"store": str(here / "whole.zarr")})
    report.figure("failed with all memory", len(analyze(whole).failed), at_most=0)
    _compare(report, scarce, whole, {1: "halved"}, rows=3)


def _large(analysis: Analysis) -> Analysis:
    """Return the analysis with an input that takes several batches of a card's usual size."""
    content = analysis.model_dump(mode="json")
    content["inputs"]["repeated"]["sequences"] = 4096
    content["workers"] |= {"device": "cuda"}
    return Analysis.model_validate(content)


def _needed(worker: Worker, planned: Plan, cell: int) -> int:
    """Compute a checkpoint; return the bytes that it took beyond what is held in between."""
    worker.compute(planned.cells[cell], planned)  # the worker's own tensors exist from now on
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    # What is committed is not computed again: the passes alone, of the resident checkpoint.
    torch.cuda.reset_peak_memory_stats()
    worker._contexts.records(worker.job.groups)
    return torch.cuda.max_memory_allocated() - held


def _refusal(worker: Worker, planned: Plan, cell: int) -> str:
    try:
        worker.compute(planned.cells[cell], planned)
    except CheckpointError as error:
        return str(error)
    return "it was computed"


class _Filled:
    """A context in which a tensor takes the card's memory but for some bytes."""

    def __init__(self, leaving: int) -> None:
        self._leaving, self.left = leaving, 0

    def __enter__(self) -> "_Filled":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        taken = max(0, free - self._leaving)
        self._filler = torch.empty(taken, dtype=torch.uint8, device="cuda")
        self.left = torch.cuda.mem_get_info()[0]
        return self

    def __exit__(self, *_: object) -> None:
        del self._filler
        torch.cuda.empty_cache()


def _on_a_cpu(report: Report, here: Path) -> None:
    scarce = heavy_analysis(heavy_run(here / "run", steps=9), here / "scarce.zarr", 1)
    command = [sys.executable, "-m", "tests.pipeline.engine.limited", scarce.model_dump_json()]
    environment = {**os.environ, **FRUGAL}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    report.figure("exit code", ran.returncode, at_most=0, at_least=0)
    *became, last = ran.stdout.splitlines() or [ran.stderr[-500:]]
    report.figure("checkpoints halved", became.count("halved"), at_least=1)
    report.figure("twice: its sentence", SENTENCE in last, at_least=1)
    steps = {i + 1: word for i, word in enumerate(became) if word == "halved"}
    whole = scarce.model_copy(update={"store": str(here / "whole.zarr")})
    analyze(whole.model_copy(update={"select": Selection(steps=(0, *steps))}))
    _compare(report, scarce, whole, steps, rows=1 + len(became))


def _compare(
    report: Report, scarce: Analysis, whole: Analysis, halved: dict[int, str], rows: int
) -> None:
    """Compare the rows that were computed with little memory with those of whole batches."""
    store = Store(scarce.store)
    commits = store.commits("head_scores")
    said = {one.step: store.pack(one).header["details"].get("batch") for one in commits}
    report.figure("rows", len(said), at_least=rows, at_most=rows)
    wrong = {step: word for step, word in said.items() if word != halved.get(step)}
    report.figure("rows that say otherwise", len(wrong), at_most=0)
    own, others = open_run(scarce.store), open_run(whole.store)
    for step in halved:
        found = values_of(own.sel(step=[step]))
        expected = values_of(others.sel(step=[step]))
        worst = worst_of(relative(found[key], expected[key]) for key in expected)
        report.figure("difference from a whole batch", worst, at_most=AT_MOST, step=step)
