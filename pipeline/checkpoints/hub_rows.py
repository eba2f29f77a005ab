"""Types of the contents of a repository on the Hub: refs, and files and folders of a commit."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.checkpoints.stored import Files, StoredFile, known_sha256
from pipeline.outside import is_whole


@dataclass(frozen=True)
class Ref:
    """A branch or tag with its commit; or a commit, whose name is the first line of its message."""

    name: str
    commit: str
    is_branch: bool = False


@dataclass(frozen=True)
class Row:
    """An entry of a commit: a file, or a folder, which has no size.

    path: in the repository. blob: the git object, None if unknown. sha256: of a file in git-lfs.
    """

    path: str
    size: int | None = None
    blob: str | None = None
    sha256: str | None = None

    def checked(self, is_file: bool) -> "Row":
        """Return the row. Raises TypeError, for an untrusted one, unless it is sound."""
        if not isinstance(self.path, str):
            raise TypeError(f"a file has the path {self.path!r}")
        if is_file and not (is_whole(self.size) and isinstance(self.blob, str)):
            raise TypeError(
                f"the file {self.path!r} has the size {self.size!r} and the object {self.blob!r}"
            )
        if not isinstance(self.sha256, str | None):
            raise TypeError(f"the file {self.path!r} has the sha256 {self.sha256!r}")
        return self

    def stored(self, name: str) -> StoredFile:
        """Return the file under a name, identified by its content."""
        blob = None if self.blob is None else f"git {self.blob}"
        identity = self.sha256 or blob
        known = self.sha256 or (None if identity is None else known_sha256(identity))
        return StoredFile(name, self.size or 0, identity, known)


def files_below(rows: Iterable[Row], folder: str) -> Files:
    """Return the files at any depth in a folder, by their paths relative to it."""
    start = f"{folder}/" if folder else ""
    inside = [
        (row.path.removeprefix(start), row)
        for row in rows
        if row.size is not None and row.path.startswith(start)
    ]
    return {name: row.stored(name) for name, row in inside}


def folders_in(rows: Iterable[Row], folder: str) -> list[str]:
    """Return the names of the folders directly in a folder."""
    start = f"{folder}/" if folder else ""
    names = [
        row.path.removeprefix(start)
        for row in rows
        if row.size is None and row.path.startswith(start)
    ]
    return [name for name in names if "/" not in name]


def directly_in(files: Files) -> Files:
    """Return those of the files that are in no folder."""
    return {name: file for name, file in files.items() if "/" not in name}
