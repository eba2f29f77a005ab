"""Faults that a run with Ray and Prefect would meet, found before either is started."""

import os
import socket
from collections.abc import Iterator

from flows import environment
from flows.prefect_server.embedded import is_embedded_server
from flows.versions import library_faults
from pipeline.analysis.faults import Fault
from pipeline.analysis.machine import (
    device_faults,
    gpus_here,
    machine_faults,
    tracker_faults,
)
from pipeline.config import Analysis, Workers

HEAD_REMEDY = "check that its head runs and RAY_ADDRESS is right (flows/machines/start_head.sh)"


def run_faults(analysis: Analysis) -> Iterator[Fault]:
    """Yield the faults of the machines on which a run computes.

    Workers on a cluster have devices and folders of their own, which are not tried from here.
    """
    yield from (Fault("environment", message) for message in environment.faults())
    url = os.environ.get("PREFECT_API_URL")
    if not url or is_embedded_server(url):
        yield from (Fault("versions", message) for message in library_faults())
    yield from resource_faults(analysis.workers)
    yield from tracker_faults(analysis)  # results are sent from here, also those of a cluster
    if address := os.environ.get("RAY_ADDRESS"):
        yield from head_faults(address)
        return
    yield from machine_faults(analysis)
    yield from gpu_faults(analysis.workers)


def resource_faults(workers: Workers) -> Iterator[Fault]:
    """Yield a fault for each amount that Ray does not accept."""
    for name, amount in (("cpus", workers.cpus), ("gpus", workers.gpus)):
        if amount > 1 and amount % 1:
            yield Fault(
                "workers",
                f"workers.{name}: a worker asks for {amount:g}, but Ray divides only single "
                f"{name.upper()[:-1]}s: give a whole number, or one below 1",
            )


def head_faults(address: str) -> Iterator[Fault]:
    """Yield a fault where nothing listens at the address of a cluster.

    Ray itself would retry for minutes.
    """
    try:
        connect_once(address)
    except OSError as error:
        yield Fault("Ray", f"{address}: {error.strerror or error}: {HEAD_REMEDY}")


def gpu_faults(workers: Workers) -> Iterator[Fault]:
    """Yield a fault where this machine has fewer GPUs than the workers ask for."""
    if not workers.gpus or list(device_faults(workers)):
        return
    found = gpus_here()
    if found < workers.count * workers.gpus:
        yield Fault("workers", too_few_gpus(workers, found))


def too_few_gpus(workers: Workers, found: float) -> str:
    """Return a sentence on a machine with fewer GPUs than the workers ask for."""
    return (
        f"workers: {workers.count} workers of {workers.gpus:g} GPUs each were asked for, this "
        f"machine has {found:g}: lower count or gpus, or name a cluster in RAY_ADDRESS"
    )


def connect_once(address: str) -> None:
    """Raise OSError at once if nothing listens at the address; Ray itself retries for long."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
