"""Checks of the places where a run reads and writes, and of free disk space."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.doctor.check import SECONDS, Check, call_within, reason
from pipeline.checkpoints import list_run
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.left_out import in_short
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store.objects import Objects
from pipeline.store.probe import probe

_FREE_BYTES = 2 * 2**30
_FREE_SHARE = 0.05  # with less, Ray refuses to store objects


def check_checkpoints(checkpoints: str, model: Mapping[str, Any] | None = None) -> Check:
    """Check that a run's checkpoints can be listed. model: see `Analysis`."""
    try:
        found = call_within(SECONDS, lambda: list_run(checkpoints, model=model))
    except Exception as error:
        return Check("checkpoints", False, _located(checkpoints, error))
    message = f"{checkpoints}: {len(found.checkpoints)} listed{in_short(found.left_out)}"
    return Check("checkpoints", True, message)


def check_store(store: str) -> Check:
    """Check that a store's place does what a store relies on. Leaves no object there."""
    try:
        call_within(SECONDS, lambda: _try(store))
    except Exception as error:
        return Check("store", False, _located(store, error))
    return Check(
        "store", True, f"{store}: creates an object only once, lists, reads and deletes it"
    )


def _located(place: str, error: Exception) -> str:
    """Return the reason of an error, with the place if the error names none."""
    message = reason(error)
    return message if "/" in message else f"{place}: {message}"


def _try(store: str) -> None:
    """Try all that a store relies on (see `pipeline.store.probe`), and leave nothing there."""
    objects = Objects(store)
    if not objects.is_local:
        probe(objects)
        return
    # The store itself may not exist yet, and must not be created by a check.
    folder = _existing(Path(objects.uri))
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".ontogeny-") as trial:
            probe(Objects(trial))
    except OSError as error:
        remedy = "choose a place that can be written"
        raise InputError(f"{folder}: {error.strerror or error}: {remedy}") from error


def check_disks(analysis: Analysis | None) -> Iterator[Check]:
    """Yield a check of free space for each file system that a run writes to."""
    folders = {"temporary files": Path(tempfile.gettempdir()), "cache": cache_folder()}
    if analysis and "://" not in analysis.store:
        folders["store"] = Path(analysis.store)
    seen = set()
    for use, folder in folders.items():
        folder = _existing(folder)
        if (device := folder.stat().st_dev) not in seen:
            seen.add(device)
            yield _disk(f"disk for {use}", folder)


def _disk(what: str, folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    share = usage.free / max(usage.total, 1)  # virtual file systems have size 0
    message = f"{folder}: {usage.free / 2**30:.1f} GiB free ({share:.0%})"
    if usage.free < _FREE_BYTES or share < _FREE_SHARE:
        return Check(
            what, False, f"{message}: free some, Ray stores nothing on a disk over 95% full"
        )
    return Check(what, True, message)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(found for found in (folder, *folder.absolute().parents) if found.exists())
