"""Query the resources of a Ray cluster in a subprocess with a time limit.

If the head does not answer, `ray.init` retries for minutes and cannot be interrupted; only ending
its process ends it.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Ray logs this at every retry with a wrong token, and never raises it.
_REFUSED = "InvalidAuthToken"


@dataclass(frozen=True)
class Resources:
    """The living nodes of a cluster, and the sums of their CPUs and GPUs."""

    nodes: int
    cpus: float
    gpus: float


def query_resources(address: str, seconds: float) -> Resources:
    """Return the resources of a cluster.

    Raises TimeoutError after so many seconds, and RuntimeError with Ray's own message.
    """
    # By path and with -P: by -m, a `flows/` in the working folder would be run instead.
    command = [sys.executable, "-P", __file__, address]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        with process:
            try:
                output = _output(process, log, time.monotonic() + seconds)
            finally:
                process.kill()
        if output is None:
            raise TimeoutError(f"no answer within {seconds:g} s")
        if process.returncode:
            raise RuntimeError(_reason(log.read_text(errors="replace")))
    return Resources(**json.loads(output.splitlines()[-1]))


def _output(process: subprocess.Popen, log: Path, deadline: float) -> str | None:
    """Return what the process prints; empty if its token is refused, None after the deadline."""
    while time.monotonic() < deadline:
        try:
            return process.communicate(timeout=0.2)[0]  # short, to notice a refused token soon
        except subprocess.TimeoutExpired:
            if _REFUSED in log.read_text(errors="replace"):
                return ""
    return None


def _reason(log: str) -> str:
    """Return the cause of a failure from the log of the subprocess."""
    if _REFUSED in log:
        return "it refuses our token"
    return log.strip().splitlines()[-1] if log.strip() else "it ended without a message"


def _connect_and_query(address: str) -> Resources:
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return Resources(nodes, total.get("CPU", 0), total.get("GPU", 0))


if __name__ == "__main__":
    print(json.dumps(asdict(_connect_and_query(sys.argv[1]))))
