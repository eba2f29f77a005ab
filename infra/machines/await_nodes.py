"""Wait until a Ray cluster has all its nodes: an analysis that begins earlier has too few workers.

python await_nodes.py HEAD:PORT NODES [SECONDS]

Exit code 1, with one sentence, if they have not come after so many seconds (300).
"""

import logging
import os
import sys
import time

os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported

import ray


def alive(address: str) -> int:
    """How many nodes have joined and answer; 0 while there is no head."""
    try:
        if not ray.is_initialized():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        return sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError):
        return 0


def main(address: str, nodes: int, seconds: float = 300) -> None:
    """Return when all nodes are there."""
    until = time.monotonic() + seconds
    while (found := alive(address)) < nodes:
        if time.monotonic() > until:
            sys.exit(
                f"{address}: {found} of {nodes} nodes came up in {seconds:g} s: see what "
                "`ray start` says on the others"
            )
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:]))
