"""Measure how well checkpoints are distributed over workers.

    python tests/benchmarks/fanout.py --json     # all four figures
    python tests/benchmarks/fanout.py --curve    # 100 to 6,400 checkpoints on 64 simulated workers

overhead_ms_per_checkpoint: what a recorded Prefect task costs beyond a bare Ray actor's answer, for
1,000 checkpoints of 10 ms on two actors, the wait for the last record included; the larger of two,
on an embedded and on a standing server. task_runs_recorded: the smaller of the two.
speedup_two_workers: throughput of two workers over that of one (one thread each) on a model that
is bound by computing. busy_share_64_workers: how much of the time 64 simulated workers compute,
through the flow's own tasks and pool, 6,400 checkpoints of 5 s (lognormal, sigma 0.3; 5% fail
once). Time runs faster there, by the factor that is printed.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import persistent_server
from workload import heavy_analysis, heavy_run

CHECKPOINTS, MILLISECONDS = 1000, 10
TURNS = 3
WORKERS, FASTER = 64, 2.5
MEAN_SECONDS, SIGMA, READ_SECONDS, RERUNS = 5.0, 0.3, 1.0, 0.05


def main() -> None:
    """Run each part in its own process, because Prefect reads its settings when imported."""
    arguments = _arguments()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    if arguments.curve:
        with persistent_server() as server:
            for count in (100, 400, 1600, 6400):
                print(json.dumps(_part("simulated", server, "--checkpoints", str(count))))
        return
    told = _all_parts()
    figures = {
        "overhead_ms_per_checkpoint": max(
            told["embedded"]["overhead_ms"], told["standing"]["overhead_ms"]
        ),
        "task_runs_recorded": min(told["embedded"]["recorded"], told["standing"]["recorded"]),
        "speedup_two_workers": told["speedup"]["speedup"],
        "busy_share_64_workers": told["simulated"]["busy_share"],
    }
    print(json.dumps(figures if arguments.json else {**figures, "parts": told}, indent=1))


def _all_parts() -> dict[str, dict[str, Any]]:
    told = {"embedded": _part("overhead", {"PREFECT_API_URL": ""})}
    with persistent_server() as server:
        told["standing"] = _part("overhead", server)
        told["speedup"] = _part("speedup", server)
        told["simulated"] = _part("simulated", server)
    return told


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="the four figures and nothing else")
    parser.add_argument("--curve", action="store_true", help="simulated runs of growing length")
    parser.add_argument("--part", choices=sorted(PARTS), help="one part, on the server configured")
    parser.add_argument("--checkpoints", type=int, default=6400, help="of the simulation")
    parser.add_argument("--faster", type=float, default=FASTER, help="than real time, simulated")
    return parser.parse_args()


def _part(part: str, environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        ran = subprocess.run(
            [sys.executable, __file__, "--part", part, *arguments],
            env={**os.environ, "PREFECT_HOME": home, "OMP_NUM_THREADS": "1"}
            | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
            | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(ran.stdout.splitlines()[-1])


def overhead(_: argparse.Namespace) -> dict[str, Any]:
    """Time a thousand short checkpoints by plain Ray actors and by the flow's tasks."""
    import flows  # noqa: F401  (the settings under which a server records every task run)
    from flows.cluster import connect_to_ray
    from flows.dispatch import Pool
    from flows.workers import ActorWorker

    job = _job(2)
    connect_to_ray(job.analysis.workers)
    bare = _bare_seconds(job)
    with Pool(lambda: [ActorWorker(job.analysis.workers, Sleeper, job) for _ in range(2)]) as pool:
        pool.set_plan(_plan(2))
        for cell in _plan(2).cells:
            pool.compute(cell)
        seconds, recorded = _by_flow(_plan(CHECKPOINTS), pool, 2)
    return {
        "bare_ms": round(1000 * bare / CHECKPOINTS, 2),
        "flow_ms": round(1000 * seconds / CHECKPOINTS, 2),
        "overhead_ms": round(1000 * (seconds - bare) / CHECKPOINTS, 2),
        "recorded": recorded,
    }


class Sleeper:
    """A worker that takes 10 ms for each checkpoint, one at a time."""

    def __init__(self, job: Any) -> None:
        from pipeline.analysis.worker import Outcome

        self._computing, self._outcome = threading.Lock(), Outcome

    def compute(self, cell: Any, plan: Any) -> Any:
        with self._computing:
            time.sleep(MILLISECONDS / 1000)
        return self._outcome(cell.checkpoint.step, ("simulated",))


def _bare_seconds(job: Any) -> float:
    """Return the seconds that the same checkpoints take on two Ray actors without Prefect."""
    import ray

    kind: Any = ray.remote(Sleeper)
    actors = [kind.options(max_concurrency=2, num_cpus=1).remote(job) for _ in range(2)]
    plan = _plan(CHECKPOINTS)
    ray.get([actor.compute.remote(plan.cells[0], None) for actor in actors])
    shared, left = ray.put(plan), iter(plan.cells)
    started = time.perf_counter()
    busy = {
        actor.compute.remote(cell, shared): actor
        for actor, cell in zip(actors * 2, left, strict=False)
    }
    while busy:
        (done,), _ = ray.wait(list(busy), num_returns=1)
        actor = busy.pop(done)
        ray.get(done)
        if cell := next(left, None):
            busy[actor.compute.remote(cell, shared)] = actor
    seconds = time.perf_counter() - started
    for actor in actors:
        ray.kill(actor)
    return seconds


def _by_flow(plan: Any, pool: Any, workers: int) -> tuple[float, int]:
    """Return the seconds until all is recorded, and the number of recorded task runs."""
    from prefect import flow

    from flows.fanout import compute_cells, make_task_runner, wait_for_task_records

    @flow(name="fan out")
    def fan_out() -> tuple[float, int]:
        started = time.perf_counter()
        with make_task_runner(workers) as threads:
            outcomes = list(compute_cells(plan, pool, threads, lambda plan: None))
        failed = [outcome for _, outcome in outcomes if isinstance(outcome, Exception)]
        assert not failed, failed[:3]
        recorded = wait_for_task_records(len(plan.cells))
        return time.perf_counter() - started, recorded

    return fan_out()


def speedup(_: argparse.Namespace) -> dict[str, Any]:
    """Time the whole flow on real weights with one and two workers; return the median ratio."""
    with tempfile.TemporaryDirectory() as folder:
        run = heavy_run(Path(folder) / "run", steps=16)
        rates = [
            {count: _rate(run, Path(folder) / f"{turn}-{count}.zarr", count) for count in (1, 2)}
            for turn in range(TURNS)
        ]
    return {
        "seconds_per_checkpoint_one_worker": [round(1 / rate[1], 3) for rate in rates],
        "speedup": round(statistics.median(rate[2] / rate[1] for rate in rates), 3),
    }


def _rate(run: Path, store: Path, count: int) -> float:
    """Return the checkpoints per second of so many workers, after their start."""
    from flows.analyze import run_analysis

    times: list[float] = []
    analysis = heavy_analysis(run, store, count)
    summary = run_analysis(analysis, lambda done, total, what: times.append(time.perf_counter()))
    assert not summary.failed, summary.failed
    return (len(times) - count) / (times[-1] - times[count - 1])


def simulated(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the flow's tasks and pool with 64 simulated workers."""
    import flows  # noqa: F401
    from flows.dispatch import Pool

    drawn = random.Random(0)
    workers = [Simulated(drawn, arguments.faster) for _ in range(WORKERS)]
    plan = _plan(arguments.checkpoints)
    with Pool(lambda: workers) as pool:
        _by_flow(plan, pool, WORKERS)
    spans = [span for worker in workers for span in worker.spans]
    makespan = max(end for _, end in spans) - min(start for start, _ in spans)
    # From when the first worker is idle until the end, only stragglers compute.
    full = min(max(end for _, end in w.spans) for w in workers if w.spans) - min(spans)[0]
    busy = sum(end - start for start, end in spans)
    return {
        "checkpoints": arguments.checkpoints,
        "workers": WORKERS,
        "faster": arguments.faster,
        "reruns": len(spans) - arguments.checkpoints,
        "busy_share": round(busy / (WORKERS * makespan), 4),
        "makespan_s": round(makespan * arguments.faster, 1),
        "stragglers_s": round((makespan - full) * arguments.faster, 1),
    }


@dataclass
class Simulated:
    """A simulated `dispatch.PoolWorker` that reads one checkpoint while it computes another.

    spans: when it computed, on the clock of this process, failed attempts included.
    """

    drawn: random.Random
    faster: float
    spans: list[tuple[float, float]] = field(default_factory=list)
    _read: float = 0.0
    _computed: float = 0.0
    _failed: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_usable(self) -> bool:
        return True

    def send(self, method: str, *arguments: Any) -> tuple[int, float, bool]:
        cell = arguments[0]
        with self._lock:
            self._read = max(time.perf_counter(), self._read) + self._lognormal(READ_SECONDS)
            start = max(self._read, self._computed)
            self._computed = start + self._lognormal(MEAN_SECONDS)
            self.spans.append((start, self._computed))
            fails = cell.checkpoint.step not in FAILED and self.drawn.random() < RERUNS
            if fails:
                FAILED.add(cell.checkpoint.step)
            return cell.checkpoint.step, self._computed, fails

    def receive(self, pending: tuple[int, float, bool], seconds: float | None) -> Any:
        from pipeline.analysis.worker import Outcome

        step, end, fails = pending
        time.sleep(max(end - time.perf_counter(), 0))
        if fails:
            raise OSError(f"step {step}: the storage did not answer (simulated)")
        return Outcome(step, ("simulated",))

    def replace(self) -> None:
        raise AssertionError("nothing hangs here")

    def stop(self) -> None:
        pass

    def _lognormal(self, mean: float) -> float:
        return self.drawn.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA) / self.faster


FAILED: set[int] = set()  # checkpoints that have had their one failure


def _plan(count: int) -> Any:
    from pipeline.analysis.job import Cell, Plan
    from pipeline.checkpoints import Checkpoint

    cells = [Cell(Checkpoint(step, f"simulated/{step}"), {}, {}) for step in range(count)]
    return Plan(tuple(cells), {}, {}, 0)


def _job(count: int) -> Any:
    from pipeline.analysis.job import Job
    from pipeline.config import Analysis

    analysis = {
        "checkpoints": "simulated",
        "store": "simulated",
        "measures": ["weight_norm"],
        "workers": {"count": count},
    }
    return Job(Analysis.model_validate(analysis), "", (), {})


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overhead": overhead,
    "speedup": speedup,
    "simulated": simulated,
}

if __name__ == "__main__":
    main()
