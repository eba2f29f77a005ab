"""The scheduler on which Dask computes: threads of this process, or a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

import dask.config

from pipeline.errors import InputError, first_line

_WAIT = "10s"  # for the scheduler's first answer


@contextmanager
def dask_scheduler(address: str | None = None) -> Iterator[None]:
    """Let Dask compute on a cluster while the block runs; without an address, on threads.

    address: of the scheduler, such as tcp://host:8786. The workers need this package, of the same
    version, and must reach the store under the same address. Raises InputError where no scheduler
    answers there, or where it has no worker.
    """
    if address is None:
        with dask.config.set(scheduler="threads"):
            yield
        return
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
