"""The sha256 of a checkpoint's weights, remembered so that no file is read twice for it.

A local file's digest is remembered under its path, size, inode and times of change. One of these,
the inode's own (`ctime`), cannot be set: a file that was changed, and its former content or time
brought back, has another one.
"""

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from pipeline.checkpoints.stored import known_sha256, remember_sha256
from pipeline.errors import ChangedError

_TICK, _COARSE_TICK = 0.02, 2.0  # seconds


def known_digest(files: list[Path]) -> str | None:
    """The digest of a checkpoint whose files were all digested before, else None."""
    return combined((file.name, known_sha256(local_state(file))) for file in files)


def digest_of_files(files: list[Path]) -> str:
    """The digest of a checkpoint: reads only the files whose digest is not remembered."""
    return str(combined((file.name, sha256_of(file)) for file in files))


def combined(digests: Iterable[tuple[str, str | None]]) -> str | None:
    """The digest of a checkpoint from its files' names and sha256; None if one is not known.

    One file's is the checkpoint's; shards' are hashed together with their names, in their order.
    """
    lines = sorted(digests, key=lambda one: one[0])
    if any(digest is None for _, digest in lines):
        return None
    if len(lines) == 1:
        return lines[0][1]
    text = "".join(f"{name} {digest}\n" for name, digest in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """The sha256 of a local file, read if it is not remembered.

    Raises ChangedError for a file that is written to meanwhile.
    """
    state = local_state(file)
    digest = known_sha256(state)
    if digest is None:
        _await_next_tick(file)
        digest = read_sha256(file)
        if local_state(file) != state:
            raise ChangedError(f"{file}: was changed while it was read: wait until it is written")
        remember_sha256(state, digest)
    return digest


def read_sha256(file: Path) -> str:
    """The sha256 of a local file's bytes as they are now."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_state(file: Path) -> str:
    """What names this very state of a local file."""
    status = file.stat()
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{file.resolve()} {status.st_size} {status.st_ino} {times}"


def _await_next_tick(file: Path) -> None:
    """Wait until whatever is written to a file from now on has another time than it has now.

    Times have the resolution of the kernel's clock, 1 to 10 ms, or of a second or two where a file
    system keeps no fractions.
    """
    status = file.stat()
    whole_seconds = status.st_mtime_ns % 10**9 == status.st_ctime_ns % 10**9 == 0
    tick = _COARSE_TICK if whole_seconds else _TICK
    age = time.time() - status.st_ctime_ns / 1e9
    if age < tick:
        time.sleep(min(tick - age, tick))
