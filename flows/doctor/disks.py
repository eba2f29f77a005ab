"""Checks of free disk space."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.doctor.check import Check
from pipeline.checkpoints.cache import cache_folder
from pipeline.config import Analysis
from pipeline.store.probe import existing

_FREE_BYTES = 2 * 2**30
_FREE_SHARE = 0.05  # with less, Ray refuses to store objects


def check_disks(analysis: Analysis | None) -> Iterator[Check]:
    """Yield a check of free space for each file system that a run writes to."""
    folders = {"temporary files": Path(tempfile.gettempdir()), "cache": cache_folder()}
    if analysis and "://" not in analysis.store:
        folders["store"] = Path(analysis.store)
    seen = set()
    for use, folder in folders.items():
        folder = existing(folder)
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
