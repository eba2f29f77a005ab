"""The scheduler on which Dask computes: threads of this process, or a cluster."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import InputError, first_line

_WAIT = "10s"  # for the scheduler's first answer
_SCHEDULER = "DASK_SCHEDULER"


@contextmanager
def dask_scheduler(address: str | None = None) -> Iterator[None]:
    """Let Dask compute on a cluster while the block runs; without an address, on threads.

    address: of the scheduler, such as tcp://host:8786. The workers need this package, of the same
    version, and must reach the store under the same address. Raises InputError where no scheduler
    answers there, or where it has no worker.
    """
    if address is None:
        with _on_threads() if "dask" in sys.modules else _on_threads_once_imported():
            yield
        return
    import dask.config
    from distributed import Client

    try:
        client = Client(address, timeout=_WAIT, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers ({first_line(error)}): give the address that "
            "`dask scheduler` prints, such as tcp://host:8786"
        ) from error
    # Named in the configuration, which this thread restores: a default client resets it when it
    # closes, unless another client that could not connect is closing too.
    with client, dask.config.set(scheduler=client):
        if not client.scheduler_info()["workers"]:
            raise InputError(f"{address}: the Dask cluster has no worker: start `dask worker`")
        yield


@contextmanager
def _on_threads() -> Iterator[None]:
    import dask.config

    with dask.config.set(scheduler="threads"):
        yield


@contextmanager
def _on_threads_once_imported() -> Iterator[None]:
    """Let Dask compute on threads if the block imports it, which most questions do not need."""
    before = os.environ.get(_SCHEDULER)
    os.environ[_SCHEDULER] = "threads"  # read by Dask when it is imported
    try:
        yield
    finally:
        del os.environ[_SCHEDULER]
        if before is not None:
            os.environ[_SCHEDULER] = before
        if "dask" in sys.modules:
            import dask.config

            dask.config.refresh()
