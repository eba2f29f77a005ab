"""Faults injected into real runs, which take minutes.

    python tests/benchmarks/faults.py [cancel] [server-gone] [server-lost] [head-killed] [watch]

cancel: a run of a deployment is cancelled as the UI cancels it; the seconds until all its Ray
processes are gone, the faults in the store then, and what a second run computes. server-gone: the
Prefect server is killed in the middle of a run and comes back after a minute. server-lost: it does
not come back; the seconds from the last row to the end of the command. head-killed: Ray's head
process is killed; what becomes of the run, also on the server, and what another computes. watch:
`ontogeny watch` over a folder into which a trainer is still writing, slowly; the seconds from each
whole checkpoint to its row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from servers import free_port, persistent_server, start_server
from workload import heavy_analysis, heavy_model, heavy_run

ROOT = Path(__file__).parents[2]
STEPS = 30


def main() -> None:
    """Run the chosen faults, each with its own server and folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="all without one")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    told = {}
    for name in arguments.faults or FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            told[name] = FAULTS[name](Path(folder))
        print(json.dumps({name: told[name]}), file=sys.stderr, flush=True)
    print(json.dumps(told, indent=1))


def cancel(folder: Path) -> dict[str, Any]:
    """Cancel a run of the deployment `on-demand`; see the module."""
    analysis = heavy_analysis(heavy_run(folder / "run", STEPS), folder / "store.zarr", 2)
    with persistent_server(folder / "home") as server, _worker(server):
        parameters = json.dumps({"analysis": analysis.model_dump(mode="json")})
        (folder / "parameters.json").write_text(parameters)
        run = _flow_run(server, parameters)
        _await(lambda: _rows(analysis) >= 3)
        mine = _ray_processes()
        started = time.monotonic()
        _ask(server, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        _await(lambda: not any(process.is_running() for process in mine))
        seconds = time.monotonic() - started
        _await(lambda: _state(server, run) in ("CANCELLED", "CRASHED", "FAILED"))
        state = _state(server, run)
    return {
        "ray_processes": len(mine),
        "seconds_until_gone": round(seconds, 1),
        "state": state,
        **_resumed(analysis),
    }


def server_gone(folder: Path) -> dict[str, Any]:
    """Kill the server once three checkpoints are stored; start it again after a minute."""
    analysis = heavy_analysis(heavy_run(folder / "run", STEPS), folder / "store.zarr", 2)
    server, port, ran = _loses_server(folder, analysis)
    time.sleep(60)
    process = start_server(server, port)
    try:
        code = ran.wait()
        count = _count_tasks(server)
    finally:
        process.terminate()
        process.wait()
    return {"exit_code": code, "checkpoint_tasks_recorded": count, "of": STEPS, **_store(analysis)}


def server_lost(folder: Path) -> dict[str, Any]:
    """Kill the server once three checkpoints are stored, and leave it dead."""
    analysis = heavy_analysis(heavy_run(folder / "run", STEPS), folder / "store.zarr", 2)
    _, _, ran = _loses_server(folder, analysis)
    _await(lambda: _rows(analysis) == STEPS)
    computed = time.monotonic()
    code = ran.wait()
    seconds = round(time.monotonic() - computed, 1)
    return {"exit_code": code, "seconds_from_last_row_to_end": seconds, **_store(analysis)}


def _loses_server(
    folder: Path, analysis: Any
) -> tuple[dict[str, str], int, subprocess.Popen[bytes]]:
    """Start a run, and kill its server when three checkpoints are stored."""
    port = free_port()
    server = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    process = start_server(server, port)
    ran = _ontogeny(folder, analysis, server)
    _await(lambda: _rows(analysis) >= 3)
    process.kill()
    process.wait()
    return server, port, ran


def head_killed(folder: Path) -> dict[str, Any]:
    """Kill the process that knows Ray's state; see the module."""
    analysis = heavy_analysis(heavy_run(folder / "run", 7 * STEPS), folder / "store.zarr", 2)
    with persistent_server(folder / "home") as server:
        automations = [sys.executable, "-m", "ontogeny", "automations"]
        subprocess.run(automations, env={**os.environ, **server}, check=True)
        ran = _ontogeny(folder, analysis, server)
        _await(lambda: _rows(analysis) >= 3)
        (head,) = (one for one in _ray_processes(ran.pid) if one.name() == "gcs_server")
        killed = time.monotonic()
        head.kill()
        code = ran.wait()
        ended = time.monotonic()
        (run,) = _ask(server, "/flow_runs/filter", {})
        _await(lambda: _state(server, run["id"]) != "RUNNING")
        crashed = time.monotonic()
        state = _state(server, run["id"])
    return {
        "exit_code": code,
        "seconds_until_ended": round(ended - killed, 1),
        "state": state,
        "seconds_until_shown": round(crashed - killed, 1),
        **_resumed(analysis),
    }


def watch(folder: Path, every: float = 60, checkpoints: int = 6) -> dict[str, Any]:
    """Run `ontogeny watch` on a run that grows by a checkpoint every 25 s, written in halves."""
    analysis = heavy_analysis(folder / "run", folder / "store.zarr", 1)
    whole: dict[int, float] = {}
    _write_slowly(folder / "run", 0, whole, seconds=0)
    trainer = threading.Thread(
        target=lambda: [_write_slowly(folder / "run", s, whole, 25) for s in range(1, checkpoints)]
    )
    with persistent_server(folder / "home") as server:
        watching = _ontogeny(folder, analysis, server, "watch", "--every", f"{every:g}")
        trainer.start()
        seen: dict[int, float] = {}
        try:
            while len(seen) < checkpoints:
                for step in _stored_steps(analysis):
                    seen.setdefault(step, time.monotonic())
                time.sleep(0.2)
        finally:
            watching.terminate()
            watching.wait()
    waits = [seen[step] - whole[step] for step in sorted(whole)]
    rows = _stored_steps(analysis)
    return {
        "every_s": every,
        "seconds_from_whole_to_stored": [round(wait, 1) for wait in waits],
        "rows": len(rows),
        "twice": len(rows) - len(set(rows)),
        **_store(analysis),
    }


def _write_slowly(run: Path, step: int, whole: dict[int, float], seconds: float) -> None:
    """Write a checkpoint as trainers do: the config first, then weights that grow in place."""
    with tempfile.TemporaryDirectory() as made:
        heavy_model(step).save_pretrained(made)
        target = run / f"step-{step}"
        target.mkdir(parents=True)
        (target / "config.json").write_bytes((Path(made) / "config.json").read_bytes())
        weights = (Path(made) / "model.safetensors").read_bytes()
    with (target / "model.safetensors").open("wb") as stream:
        for part in range(10):
            size = len(weights) // 10 + 1
            stream.write(weights[part * size : (part + 1) * size])
            stream.flush()
            time.sleep(seconds / 10)
    whole[step] = time.monotonic()


@contextmanager
def _worker(server: dict[str, str]) -> Iterator[None]:
    """Create a work pool and the deployments of `prefect.yaml`, and run a worker for them."""
    _prefect(server, "work-pool", "create", "ontogeny", "--type", "process")
    _prefect(server, "deploy", "--all")
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ontogeny"],
        env={**os.environ, **server},
        cwd=ROOT,
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


def _flow_run(server: dict[str, str], parameters: str) -> str:
    said = _prefect(server, "deployment", "run", "analyze/on-demand", "--params", parameters)
    return next(line.split()[-1] for line in said.splitlines() if "UUID" in line)


def _prefect(server: dict[str, str], *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env={**os.environ, **server},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def _ontogeny(
    folder: Path, analysis: Any, server: dict[str, str], command: str = "analyze", *options: str
) -> subprocess.Popen:
    config = folder / "analysis.yaml"
    config.write_text(analysis.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "ontogeny", command, str(config), *options],
        env={**os.environ, **server},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def _resumed(analysis: Any) -> dict[str, Any]:
    """Return what is in the store, and what another run then computes."""
    from pipeline.analysis.run import analyze

    before = _store(analysis)
    again = analyze(analysis)
    return {**before, "computed_by_running_again": len(again.computed), "complete": again.complete}


def _store(analysis: Any) -> dict[str, int]:
    from pipeline.store import Store
    from pipeline.store.verify import verify

    verified = verify(Store(analysis.store))
    return {"rows_stored": verified.rows, "faults": len(verified.faults)}


def _stored_steps(analysis: Any) -> list[int]:
    from pipeline.store import Store

    return [commit.step for commit in Store(analysis.store).commits("head_scores")]


def _rows(analysis: Any) -> int:
    folder = Path(analysis.store) / "packs"
    return sum(len(files) for _, _, files in os.walk(folder))


def _ray_processes(parent: int | None = None) -> list[psutil.Process]:
    """Return the processes of the Ray that a descendant of a process has started."""
    below = psutil.Process(parent).children(recursive=True)
    names = ("gcs_server", "raylet", "ray::")
    return [process for process in below if process.name().startswith(names)]


def _state(server: dict[str, str], run: str) -> str:
    return _ask(server, f"/flow_runs/{run}")["state_type"]


def _count_tasks(server: dict[str, str]) -> int:
    tasks = {"name": {"like_": "step "}, "state": {"type": {"any_": ["COMPLETED"]}}}
    return _ask(server, "/task_runs/count", {"task_runs": tasks})


def _ask(server: dict[str, str], path: str, question: Any = None) -> Any:
    import httpx

    method = "GET" if question is None else "POST"
    return httpx.request(method, server["PREFECT_API_URL"] + path, json=question, timeout=60).json()


def _await(met: Callable[[], bool]) -> None:
    while not met():
        time.sleep(0.1)


FAULTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cancel": cancel,
    "server-gone": server_gone,
    "server-lost": server_lost,
    "head-killed": head_killed,
    "watch": watch,
}

if __name__ == "__main__":
    main()
