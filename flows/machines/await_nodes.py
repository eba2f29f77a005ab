"""Wait until all nodes have joined a Ray cluster; an analysis before that finds too few workers.

python await_nodes.py HEAD:PORT NODES [SECONDS]

Exits with code 1 and one sentence if they have not joined after SECONDS (default: 300).
"""

import logging
import os
import sys
import time

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when imported

import ray


def count_nodes(address: str) -> int:
    """Return the number of living nodes; 0 while the head does not answer."""
    try:
        if not ray.is_initialized():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        return sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError):
        return 0


def main(address: str, nodes: int, seconds: float = 300) -> None:
    """Return as soon as all nodes have joined; exit with a message if that takes too long."""
    deadline = time.monotonic() + seconds
    while (found := count_nodes(address)) < nodes:
        if time.monotonic() > deadline:
            sys.exit(
                f"{address}: {found} of {nodes} nodes joined within {seconds:g} s: see the "
                "output of `ray start` on the others"
            )
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:]))
