"""The sha256 of a checkpoint's weights, remembered so that no file is read twice for it.

A digest is remembered under the file's path, size and time of change, one small file each in the
user's cache folder (`ONTOGENY_CACHE` names another), so that processes need no lock.
"""

import hashlib
import json
import os
from pathlib import Path

from platformdirs import user_cache_path


def known_digest(files: list[Path]) -> str | None:
    """The digest of a checkpoint whose files were all digested before, else None."""
    digests = [_remembered(file) for file in files]
    return _combined(files, [d for d in digests if d is not None], complete=None not in digests)


def digest_of_files(files: list[Path]) -> str:
    """The digest of a checkpoint: reads only the files whose digest is not remembered."""
    digests = [_remembered(file) or _compute(file) for file in files]
    return str(_combined(files, digests, complete=True))


def _combined(files: list[Path], digests: list[str], complete: bool) -> str | None:
    """One file's digest is the checkpoint's; shards' are hashed together with their names."""
    if not complete:
        return None
    if len(digests) == 1:
        return digests[0]
    lines = (f"{file.name} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _compute(file: Path) -> str:
    entry = _entry(file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    temporary = entry.with_suffix(f".{os.getpid()}")
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps({"file": str(file), "sha256": digest}), encoding="utf-8")
    temporary.replace(entry)
    return digest


def _remembered(file: Path) -> str | None:
    try:
        return json.loads(_entry(file).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return None


def _entry(file: Path) -> Path:
    """Where the digest of this very state of the file is remembered."""
    status = file.stat()
    state = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
    base = os.environ.get("ONTOGENY_CACHE")
    folder = Path(base) if base else user_cache_path("ontogeny")
    return folder / "digests" / f"{hashlib.sha256(state.encode()).hexdigest()}.json"
