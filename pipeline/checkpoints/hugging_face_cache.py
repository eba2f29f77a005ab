"""Read the folder of one repository in a Hugging Face cache.

    models--owner--name/refs/step1000                a branch or tag, with the hash of its commit
    models--owner--name/snapshots/<commit>/...       the files of a commit, as links to `blobs`

The name of a file in `blobs` is its git object's id or, of a file in git-lfs, its sha256. Only what
was downloaded is there. See huggingface_hub, "Understand caching".
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


def snapshot_of(repository: Path, commit: str) -> Path:
    """Return the folder of a commit's files, which may not exist."""
    return snapshots_in(repository) / commit


def snapshots_in(repository: Path) -> Path:
    """Return the folder with those of all commits."""
    return repository / "snapshots"


def ref_file(repository: Path, ref: str) -> Path:
    """Return the file of a branch or tag, which may not exist."""
    return repository / "refs" / ref


def ref_files(repository: Path) -> dict[str, Path]:
    """Return the file of each branch and tag of which something was downloaded, by name."""
    refs = repository / "refs"
    files = (file for file in sorted(refs.rglob("*")) if file.is_file())
    return {file.relative_to(refs).as_posix(): file for file in files}


def commit_in(file: Path) -> str:
    """Return the commit that a ref's file names. Raises InputError if it holds no hash of one."""
    commit = content_of(file, InputError, _LARGEST).decode(errors="replace").strip()
    if not _HASH.fullmatch(commit):
        raise InputError(f"{file}: holds no hash of a commit: download the repository again")
    return commit


def snapshots_by_ref(repository: Path) -> dict[str, Path]:
    """Return the folder of the snapshot of each branch and tag, without those that are absent.

    Raises InputError for a file in `refs` that holds no hash of a commit.
    """
    found = {
        ref: snapshot_of(repository, commit_in(file)) for ref, file in ref_files(repository).items()
    }
    return {ref: snapshot for ref, snapshot in found.items() if snapshot.is_dir()}


def other_snapshots(repository: Path, known: dict[str, Path]) -> list[Path]:
    """Return the snapshots that no branch or tag of the cache leads to."""
    every = snapshots_in(repository)
    found = sorted(every.iterdir()) if every.is_dir() else []
    return [path for path in found if path.is_dir() and path not in known.values()]
