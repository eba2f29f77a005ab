"""A cache on disk, kept between runs: digests, immutable listings, small files.

Each entry is a file in the user's cache folder (or the one in `ONTOGENY_CACHE`), written
atomically, so that processes need no lock. Losing entries costs time, never a result.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.writing import whole_file


def cache_folder() -> Path:
    """Return the cache folder of the user, or the one named by `ONTOGENY_CACHE`."""
    base = os.environ.get("ONTOGENY_CACHE")
    return Path(base) if base else user_cache_path("ontogeny")


def recall(kind: str, key: str) -> bytes | None:
    """Return the cached content of a key; None if there is none."""
    # Without a Path, since a listing asks for each of its files.
    try:
        descriptor = os.open(_entry(kind, key), os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def remember(kind: str, key: str, content: bytes) -> None:
    """Cache a content under a key that identifies it, so that an entry never becomes stale.

    Errors of the file system (a full disk, a read-only home) are ignored: no result depends on it.
    """
    entry = Path(_entry(kind, key))
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(entry) as draft:
            draft.write_bytes(content)


def _entry(kind: str, key: str) -> str:
    folder = os.environ.get("ONTOGENY_CACHE") or str(cache_folder())
    # Hashed, since keys contain paths and URLs, which are too long for a file name.
    return f"{folder}/{kind}/{hashlib.sha256(key.encode()).hexdigest()}"
