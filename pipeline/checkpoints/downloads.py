"""Download single files of remote checkpoints, and verify them."""

import errno
import shutil
from pathlib import Path

from pipeline.checkpoints.digests import read_sha256
from pipeline.checkpoints.stored import RemotePlace, StoredFile, remember_sha256
from pipeline.errors import DamagedError

TRIES = 3  # after damaged bytes, and after a file was replaced meanwhile


def fetch_verified(place: RemotePlace, uri: str, file: StoredFile, target: Path) -> str:
    """Download one file of the folder `uri`, again if it is damaged, and return its sha256.

    Raises DamagedError if the file is damaged each time, ChangedError if it was replaced since it
    was listed.
    """
    # A sha256 from our own cache is overruled by two equal downloads: an ETag need not identify
    # the content, and the cached one may be that of a damaged download.
    is_the_places = file.sha256 is not None and file.sha256 == file.identity
    came: list[str] = []
    for last in [False] * (TRIES - 1) + [True]:
        try:
            place.fetch(uri, file, target)
        except DamagedError:
            if last:
                raise
            continue
        digest = read_sha256(target)
        if file.sha256 in (None, digest) or (digest in came and not is_the_places):
            if file.identity is not None:
                remember_sha256(file.identity, digest)
            return digest
        came.append(digest)
    raise DamagedError(
        f"{uri}/{file.name}: its sha256 is {came[-1]}, expected {file.sha256} as listed: "
        "upload the file again"
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise OSError, naming the folder, if its disk has less room than is needed (bytes)."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder}: {free} bytes are free, {needed} are needed for a checkpoint: free some "
            "space, or name a folder on another disk in ONTOGENY_CACHE",
        )
