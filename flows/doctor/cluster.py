"""What a Ray cluster has, asked by a process that can be given up.

Against a head that is gone or does not answer, Ray tries for minutes and cannot be interrupted.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_REFUSED = "InvalidAuthToken"


@dataclass(frozen=True)
class Resources:
    """What all living nodes have together."""

    nodes: int
    cpus: float
    gpus: float


def ask(address: str, seconds: float) -> Resources:
    """Raises TimeoutError if nothing has answered by then, RuntimeError with Ray's own words."""
    command = [sys.executable, "-m", "flows.doctor.cluster", address]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        with process:
            try:
                answer = _answer(process, log, time.monotonic() + seconds)
            finally:
                process.kill()
        if answer is None:
            raise TimeoutError(f"no answer within {seconds:g} s")
        if process.returncode:
            raise RuntimeError(_reason(log.read_text(errors="replace")))
    return Resources(**json.loads(answer.splitlines()[-1]))


def _answer(process: subprocess.Popen, log: Path, until: float) -> str | None:
    """What it prints; empty if it fails, or is refused again and again; None if it takes long."""
    while time.monotonic() < until:
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            if _REFUSED in log.read_text(errors="replace"):
                return ""
    return None


def _reason(said: str) -> str:
    """Ray logs many lines on its way to an error; a refused token is only in those."""
    if _REFUSED in said:
        return "it refuses our token"
    return said.strip().splitlines()[-1] if said.strip() else "it ended without a word"


def _found(address: str) -> Resources:
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return Resources(nodes, total.get("CPU", 0), total.get("GPU", 0))


if __name__ == "__main__":
    print(json.dumps(asdict(_found(sys.argv[1]))))
