"""Faults of the machine that computes: devices, and the folder that checkpoints are fetched to."""

import os
import tempfile
import warnings
from collections.abc import Iterator

import torch

from pipeline.analysis.faults import Fault
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.places import is_address_list, remote_place_of
from pipeline.config import Analysis, Workers
from pipeline.errors import first_line
from pipeline.models.architecture import torch_dtype


def machine_faults(analysis: Analysis) -> Iterator[Fault]:
    """Yield the faults of this machine, on which an analysis is to be computed."""
    yield from device_faults(analysis.workers)
    yield from cache_faults(analysis)
    yield from tracker_faults(analysis)


def device_faults(workers: Workers) -> Iterator[Fault]:
    """Yield a fault where this machine lacks the device of the workers. Uses no GPU memory."""
    if workers.device != "cuda":
        return
    # torch warns of the reason, such as a driver that is too old, and raises nothing.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if not found:
        reasons = [str(one.message).strip().splitlines()[0] for one in told]
        said = f" ({reasons[0]})" if reasons else ""
        yield Fault(
            "device",
            f"workers: device: cuda was asked for, but torch finds no CUDA device here{said}: set "
            "`device: cpu`, or run on a machine with a GPU and a torch that is built for it",
        )


def gpus_here() -> int:
    """Return the number of CUDA devices that this process may use. Uses no GPU memory."""
    return torch.cuda.device_count()


def product_fault(workers: Workers) -> Fault | None:
    """Return the fault where the workers' device cannot multiply in their dtype; it is tried."""
    try:
        ones = torch.ones(8, 8, dtype=torch_dtype(workers.dtype), device=workers.device)
        if float((ones @ ones).sum()) == 8.0**3:
            return None
        reason = "a product was wrong"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
    return Fault(
        "device",
        f"workers: {workers.device} does not compute in {workers.dtype} here ({reason}): choose "
        "another dtype or device",
    )


def cache_faults(analysis: Analysis) -> Iterator[Fault]:
    """Yield a fault where checkpoints have to be fetched and their folder cannot be written."""
    run = analysis.checkpoints
    if remote_place_of(run) is None and not is_address_list(run):
        return
    folder = cache_folder() / "copies"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Fault(
            "cache",
            f"{folder}: checkpoints cannot be fetched to it ({error.strerror or error}): name "
            "another folder in ONTOGENY_CACHE",
        )


def tracker_faults(analysis: Analysis) -> Iterator[Fault]:
    """Yield a fault for each tracker of `log_to` whose client is not installed here."""
    yield from (Fault("log_to", sentence) for sentence in analysis.log_to.missing())


def machine_notes(workers: Workers) -> list[str]:
    """Return sentences on settings that this machine can carry out, but slowly."""
    cores = os.cpu_count()
    threads = workers.count * workers.threads
    if cores is None or threads <= cores:
        return []
    return [
        f"workers: {workers.count} workers of {workers.threads} threads each share the {cores} "
        "cores of this machine"
    ]
