"""The sha256 of a checkpoint's weights, cached so that no file is read twice for it.

A local file's digest is cached under its path, size, inode and times of change. The inode's own
time (`ctime`) cannot be set by a program: a file that was changed and whose modification time was
restored, as by rsync or cp -p, has another one.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.checkpoints.stated_sizes import refuse_misstated
from pipeline.checkpoints.stored import known_sha256, remember_sha256
from pipeline.errors import ChangedError

# Seconds: the kernel's clock advances every 1 to 10 ms, times of FAT and HFS+ every 1 or 2 s.
_TICK, _COARSE_TICK = 0.02, 2.0


def digest_of_files(files: Mapping[str, Path]) -> str:
    """Return the digest of a checkpoint, reading only files whose digest is not cached."""
    return str(combined((name, sha256_of(file)) for name, file in files.items()))


def combined(digests: Iterable[tuple[str, str | None]]) -> str | None:
    """Return the digest of a checkpoint from its files' names and sha256; None if one is unknown.

    That of a single file is its sha256; for shards, their names and digests are hashed, sorted.
    """
    lines = sorted(digests, key=lambda one: one[0])
    if any(digest is None for _, digest in lines):
        return None
    if len(lines) == 1:
        return lines[0][1]
    text = "".join(f"{name} {digest}\n" for name, digest in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """Return the sha256 of a local file, from the cache if its state is known.

    Raises ChangedError for a file that is written to meanwhile, CheckpointError for one that is
    not as long as it says.
    """
    state = local_state(file)
    digest = known_sha256(state)
    if digest is None:
        refuse_misstated(file)  # a damaged file may be of any length
        await_next_tick(file)
        digest = read_sha256(file)
        if local_state(file) != state:
            raise ChangedError(f"{file}: was changed while it was read: wait until it is written")
        remember_sha256(state, digest)
    return digest


def read_sha256(file: Path) -> str:
    """Return the sha256 of a local file's current bytes, without the cache."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_state(file: Path) -> str:
    """Return a string that changes whenever the content of a local file may have changed."""
    return state_of(str(file.resolve()), file.stat())


def state_of(real_path: str, status: os.stat_result) -> str:
    """Return the `local_state` of a file by its path without links, and its status."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    # The inode, since another file that is renamed to this name may have equal size and times.
    return f"{real_path} {status.st_size} {status.st_ino} {times}"


def await_next_tick(file: Path) -> None:
    """Wait until any later write to a file gives it another modification time.

    Without the wait, a write right after the digest could leave the file's state unchanged.
    """
    status = file.stat()
    whole_seconds = status.st_mtime_ns % 10**9 == status.st_ctime_ns % 10**9 == 0
    tick = _COARSE_TICK if whole_seconds else _TICK
    age = time.time() - status.st_ctime_ns / 1e9
    if age < tick:
        time.sleep(min(tick - age, tick))
