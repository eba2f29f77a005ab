"""Out of memory: the batch is halved once, which is recorded; then the checkpoint is named."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

import pipeline.analysis.contexts
import pipeline.analysis.worker
from pipeline import analyze, open_run
from pipeline.engine.batches import Limits
from pipeline.store import Store
from tests.benchmarks.workload import heavy_analysis, heavy_run
from tests.pipeline.analysis.test_run import analysis


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    return make_run(steps=(0, 1, 2))


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """`memory_for(n, uri)` leaves memory for an n-th of a batch of this checkpoint's passes."""
    real, swap = pipeline.analysis.contexts.run, pipeline.analysis.worker.Resident.swap
    present: list[str] = []

    def limit(needed: int, step: str) -> None:
        def swapped(self: Any, weights: Any, where: str) -> None:
            present[:] = [where]
            swap(self, weights, where)

        def limited(resident: Any, made: Any, wanted: Any, limits: Limits) -> Any:
            if present[0].endswith(step) and limits.divided < needed:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
            return real(resident, made, wanted, limits)

        monkeypatch.setattr(pipeline.analysis.contexts, "run", limited)
        monkeypatch.setattr(pipeline.analysis.worker.Resident, "swap", swapped)

    return limit


def batches(store: str, group: str = "token_loss") -> dict[int, str | None]:
    opened = Store(store)
    return {
        commit.step: opened.pack(commit).header["details"].get("batch")
        for commit in opened.commits(group)
    }


def test_a_batch_halved_once_is_recorded_and_gives_the_same_numbers(
    run: Path, memory_for: Callable[[int, str], None]
) -> None:
    undisturbed = analysis(run, store=str(run.parent / "undisturbed.zarr"))
    assert not analyze(undisturbed).failed
    scarce = analysis(run)
    memory_for(2, "step-1")
    summary = analyze(scarce)
    assert (summary.computed, summary.failed) == ([0, 1, 2], {})
    assert batches(scarce.store) == {0: None, 1: "halved", 2: None}
    for name, group in open_run(undisturbed.store).children.items():
        found = open_run(scarce.store)[name].to_dataset()
        xr.testing.assert_allclose(found, group.to_dataset(), atol=1e-5)


def test_a_checkpoint_too_large_for_half_a_batch_fails_alone(
    run: Path, memory_for: Callable[[int, str], None]
) -> None:
    memory_for(4, "step-1")
    summary = analyze(analysis(run))
    assert summary.computed == [0, 2]
    assert list(summary.failed) == [1]
    for part in ("step 1", "step-1", "half the batch", "20 GiB", "workers.memory"):
        assert part in summary.failed[1]


# The allocator gives back what is freed at once, so that what is held is what is needed.
FRUGAL = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_really_runs_out_on_a_cpu_is_met_in_the_same_way(
    tmp_path: Path, threads: int
) -> None:
    scarce = heavy_analysis(heavy_run(tmp_path / "run", steps=9), tmp_path / "store.zarr", 1)
    workers = scarce.workers.model_copy(update={"threads": threads})
    scarce = scarce.model_copy(update={"workers": workers})
    command = [sys.executable, "-m", "tests.pipeline.engine.limited", scarce.model_dump_json()]
    environment = {**os.environ, **FRUGAL}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    *became, last = ran.stdout.splitlines()
    assert became == sorted(became, reverse=True), ran.stdout
    assert set(became) == {"whole", "halved"}, ran.stdout
    assert "half the batch" in last and "DefaultCPUAllocator" in last
    store = Store(scarce.store)
    details = [store.pack(one).header["details"] for one in store.commits("head_scores")]
    halved = sum(one.get("batch") == "halved" for one in details)
    assert (len(details), halved) == (1 + len(became), became.count("halved"))
