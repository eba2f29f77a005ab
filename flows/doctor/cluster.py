"""What a Ray cluster has, asked by a process that can be given up.

Against a head that is gone or does not answer, Ray tries for minutes and cannot be interrupted.
"""

import json
import logging
import subprocess
import sys
from dataclasses import asdict, dataclass

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
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        if _REFUSED in str(error.stderr):  # it would go on asking for a minute
            raise RuntimeError(_reason(str(error.stderr))) from error
        raise TimeoutError(f"no answer within {seconds:g} s") from error
    if done.returncode:
        raise RuntimeError(_reason(done.stderr))
    return Resources(**json.loads(done.stdout.splitlines()[-1]))


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
