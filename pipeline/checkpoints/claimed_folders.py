"""Folders that belong to one process, and are removed after its end, however it ended."""

import atexit
import shutil
import uuid
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

_LOCK = "in-use"
# Locks that are held until the process ends. The references keep them from being collected, which
# would release them.
_claims: list[BaseFileLock] = []


def claimed_folder(parent: Path) -> Path:
    """Return a new folder in `parent`, locked by this process; remove those of ended processes."""
    parent.mkdir(parents=True, exist_ok=True)
    # Locked as a whole, or another process could take the new folder, whose claim is not yet
    # acquired, for an abandoned one.
    with FileLock(parent / _LOCK):
        for other in parent.iterdir():
            if other.is_dir() and _is_abandoned(other):
                shutil.rmtree(other, ignore_errors=True)
        own = parent / uuid.uuid4().hex
        own.mkdir()
        # thread_local=False: the lock must outlast the thread that acquires it.
        claim = FileLock(own / _LOCK, thread_local=False)
        claim.acquire()
        _claims.append(claim)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _is_abandoned(folder: Path) -> bool:
    try:
        with FileLock(folder / _LOCK, blocking=False):
            return True
    except Timeout:
        return False
    except OSError:
        return True  # removed by another process meanwhile
