"""Read the folder of one repository in a Hugging Face cache.

    models--owner--name/refs/step1000                a branch or tag, with the hash of its commit
    models--owner--name/snapshots/<commit>/...       the files of a commit, as links to `blobs`

See huggingface_hub, "Understand caching".
"""

import re
from pathlib import Path

from pipeline.errors import InputError
from pipeline.outside import content_of

_LARGEST = 200  # bytes of a file with a commit's hash
_HASH = re.compile(r"[0-9a-f]{7,64}")


def is_repository(folder: Path) -> bool:
    """Return whether a folder is that of one repository in a cache."""
    return has_name_of_repository(folder) and (folder / "refs").is_dir()


def repository_of(path: Path) -> Path | None:
    """Return the repository's folder that a file of a snapshot is in; None for other files."""
    for parent in path.parents:
        if parent.name == "snapshots" and has_name_of_repository(parent.parent):
            return parent.parent
    return None


def has_name_of_repository(folder: Path) -> bool:
    """Return whether a folder is named as that of a model's repository in a cache."""
    return folder.name.startswith("models--")


def snapshots_by_ref(repository: Path) -> dict[str, Path]:
    """Return the folder of the snapshot of each branch and tag, without those that are absent.

    Raises InputError for a file in `refs` that holds no hash of a commit.
    """
    found: dict[str, Path] = {}
    for ref in sorted((repository / "refs").rglob("*")):
        if ref.is_file():
            commit = content_of(ref, InputError, _LARGEST).decode(errors="replace").strip()
            if not _HASH.fullmatch(commit):
                raise InputError(f"{ref}: holds no hash of a commit: download the repository again")
            snapshot = repository / "snapshots" / commit
            if snapshot.is_dir():
                found[ref.relative_to(repository / "refs").as_posix()] = snapshot
    return found


def other_snapshots(repository: Path, known: dict[str, Path]) -> list[Path]:
    """Return the snapshots that no branch or tag of the cache leads to."""
    every = repository / "snapshots"
    found = sorted(every.iterdir()) if every.is_dir() else []
    return [path for path in found if path.is_dir() and path not in known.values()]
