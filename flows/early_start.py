"""Start a Prefect server and Ray while this process still imports torch and Prefect.

Each of them takes seconds. One after the other they would be most of the time of a small run.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flows import cleanup, environment
from flows.prefect_server.embedded import launch_server
from flows.server import may_name_server
from pipeline.config import Workers
from pipeline.errors import InputError
from pipeline.progress import Tell


@contextmanager
def started_early(workers: Workers, tell: Tell) -> Iterator[None]:
    """Let a Prefect server and Ray of this run's own start during the block, and end Ray after it.

    Starts none of them that the environment or Prefect's settings name. A Ray that cannot be
    started is left to the run, which tries it again and says why. tell: called with what is begun.
    """
    if environment.faults():  # told by the run, with all other faults
        yield
        return
    with cleanup.covered():
        if not may_name_server():
            tell("starting Prefect")
            launch_server()
        if os.environ.get("RAY_ADDRESS"):
            yield
            return
        tell("starting Ray")
        with _ray_starting(workers):
            yield


@contextmanager
def _ray_starting(workers: Workers) -> Iterator[None]:
    import ray

    from flows.cluster import connect_to_ray, loopback_variable

    if ray.is_initialized():
        yield
        return
    ready, ended = threading.Event(), threading.Event()

    def start() -> None:
        try:
            with suppress(InputError, OSError):
                connect_to_ray(workers)
        finally:
            ready.set()
        ended.wait()  # Linux ends the processes that a thread has started when the thread ends

    # It is set here too: the other thread must not remove a variable while this one reads them all.
    with loopback_variable():
        thread = threading.Thread(target=start, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ready.wait()  # it cannot be interrupted while it starts
            ray.shutdown()
            ended.set()
            thread.join()
