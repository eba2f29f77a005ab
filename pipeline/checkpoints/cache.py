"""What is remembered between runs: digests, listings that cannot change, small files.

One file for each thing, in the user's cache folder (`ONTOGENY_CACHE` names another), so that
processes need no lock. Losing any of it costs time, never a result.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.writing import whole_file


def cache_folder() -> Path:
    """The folder that all of it is in."""
    base = os.environ.get("ONTOGENY_CACHE")
    return Path(base) if base else user_cache_path("ontogeny")


def recall(kind: str, key: str) -> bytes | None:
    """What was remembered under a key, None if nothing was."""
    try:
        return _entry(kind, key).read_bytes()
    except OSError:
        return None


def remember(kind: str, key: str, content: bytes) -> None:
    """Remember a content under a key that names this very state of it.

    Where it cannot be kept (a full disk, a read-only home) it is not: nothing depends on it.
    """
    entry = _entry(kind, key)
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(entry) as draft:
            draft.write_bytes(content)


def _entry(kind: str, key: str) -> Path:
    return cache_folder() / kind / hashlib.sha256(key.encode()).hexdigest()
