"""Where a run reads and writes, and how much room there is."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.doctor.finding import SECONDS, Finding, brief, within
from pipeline.checkpoints import list_run
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.left_out import in_short
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store.objects import Objects

_FREE_BYTES = 2 * 2**30
_FREE_SHARE = 0.05  # below it Ray stores no more objects


def of_checkpoints(checkpoints: str, model: Mapping[str, Any] | None = None) -> Finding:
    """Whether a run's checkpoints can be listed; model: see `Analysis`."""
    try:
        found = within(SECONDS, lambda: list_run(checkpoints, model=model))
    except Exception as error:
        return Finding("checkpoints", False, _of(checkpoints, error))
    said = f"{checkpoints}: {len(found.checkpoints)} listed{in_short(found.left_out)}"
    return Finding("checkpoints", True, said)


def of_store(store: str) -> Finding:
    """Whether a store's place can be written, read and deleted from; it is left as it was."""
    try:
        within(SECONDS, lambda: _write_read_delete(store))
    except Exception as error:
        return Finding("store", False, _of(store, error))
    return Finding("store", True, f"{store}: can be written, read and deleted")


def _of(place: str, error: Exception) -> str:
    said = brief(error)
    return said if "/" in said else f"{place}: {said}"


def _write_read_delete(store: str) -> None:
    objects = Objects(store)
    if objects.is_local:
        folder = Path(objects.uri)
        while not folder.exists():
            folder = folder.parent
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise InputError(
                f"{folder}: {error.strerror}: choose a place that can be written"
            ) from error
        return
    key, content = f"_doctor/{uuid.uuid4().hex}", os.urandom(64)
    objects.create(key, content)
    try:
        if objects.read(key) != content:
            raise InputError(f"{store}: gave back other bytes than were written: do not use it")
    finally:
        objects.delete(key)


def of_disks(analysis: Analysis | None) -> Iterator[Finding]:
    """Free space where something is written, each file system once."""
    folders = {"temporary files": Path(tempfile.gettempdir()), "cache": cache_folder()}
    if analysis and "://" not in analysis.store:
        folders["store"] = Path(analysis.store)
    seen = set()
    for use, folder in folders.items():
        folder = _existing(folder)
        if (device := folder.stat().st_dev) not in seen:
            seen.add(device)
            yield _disk(f"disk for {use}", folder)


def _disk(what: str, folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    share = usage.free / max(usage.total, 1)  # file systems of the kernel have no size
    said = f"{folder}: {usage.free / 2**30:.1f} GiB free ({share:.0%})"
    if usage.free < _FREE_BYTES or share < _FREE_SHARE:
        return Finding(
            what, False, f"{said}: free some, Ray stores nothing on a disk over 95% full"
        )
    return Finding(what, True, said)


def _write_temporarily(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = f"{error.strerror}: choose a place that can be written"
        raise InputError(f"{folder}: {reason}") from error


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(found for found in (folder, *folder.absolute().parents) if found.exists())
