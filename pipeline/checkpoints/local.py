"""Read runs from a local folder with one folder per checkpoint."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.checkpoints.digests import local_state
from pipeline.checkpoints.files import inside_run
from pipeline.checkpoints.foreign import ordinary_run
from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.pth_names import step_in_name
from pipeline.checkpoints.stored import (
    AtomicUnit,
    Entry,
    Files,
    Folder,
    PlaceContents,
    StoredFile,
    known_sha256,
)
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import opened, reading

ATOMIC_UNIT: AtomicUnit = "byte"
WATCHED_FOR = 1.0  # seconds; a file that is being written grows within this time


def contents(uri: str) -> PlaceContents:
    """Return the folders in `uri` that have a checkpoint's name, and its other entries.

    The checkpoints of a run in another format are those of its conversion, see `foreign.py`.
    """
    root = ordinary_run(uri)
    if root.is_file():
        raise InputError(f"{uri}: is a file of unknown format; expected a run's folder")
    if not root.is_dir():
        raise InputError(f"{uri}: there is no such folder: give the folder of a training run")
    with reading(uri, InputError, passing=(), remedy="give a folder that you may read"):
        named = [path for path in root.iterdir() if _is_named(path)]
    folders = [Folder(path.name, str(path), _files(path), _changed(path)) for path in named]
    return PlaceContents(folders, uri, _others(Path(uri), is_converted=root != Path(uri)))


def now(uri: str) -> float:
    """Return this machine's time, which is that of its own disks."""
    return time.time()


def files_of(uris: Sequence[str]) -> list[Files]:
    """Return the files of each of the folders, see `stored.Files`."""
    return [_files(Path(uri)) for uri in uris]


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file in the folder `uri`; fewer if it ends before.

    Raises CheckpointError for a link out of the run.
    """
    with opened(inside_run(Path(uri), name), CheckpointError) as stream:
        stream.seek(start)
        return stream.read() if stop is None else stream.read(stop - start)


def verify(uri: str, file: StoredFile, content: bytes) -> None:
    """Do nothing: local reads are not verified."""


def is_growing(folder: Folder) -> bool:
    """Return whether files appear or grow within `WATCHED_FOR` seconds."""
    before = _sizes(folder.files)
    time.sleep(WATCHED_FOR)
    return _sizes(_files(Path(folder.uri))) != before


def _is_named(path: Path) -> bool:
    return parse_name(path.name) is not None and path.is_dir()


def _others(run: Path, is_converted: bool) -> list[Entry]:
    """Return a run's entries beside its checkpoints and the files that were converted to them."""
    if not run.is_dir():
        return []
    others = (path for path in run.iterdir() if not _is_named(path))
    return [
        Entry(path.name, _names_in(path) if path.is_dir() else None)
        for path in others
        if not (is_converted and step_in_name(path) is not None)
    ]


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _files(folder: Path) -> dict[str, StoredFile]:
    if not folder.is_dir():
        return {}
    try:
        found = _named_files(folder.iterdir())
        if holds_weights(found):
            return found
        visible = filter(_is_visible_folder, folder.iterdir())
        inside = [path for subfolder in visible for path in subfolder.iterdir()]
    except PermissionError:  # one checkpoint without weights, while the others are computed
        return {}
    return found | _named_files(inside, folder)


def _named_files(paths: Iterable[Path], folder: Path | None = None) -> dict[str, StoredFile]:
    """Return the files among some paths by name; by their paths within `folder`, if it is given."""
    found = {}
    for path in paths:
        name = path.name if folder is None else path.relative_to(folder).as_posix()
        if (file := _stored(path, name)) is not None:
            found[name] = file
    return found


def _is_visible_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir() and not path.is_symlink()


def _stored(path: Path, name: str) -> StoredFile | None:
    """Return a file; None for other entries, and for one that was just renamed or removed."""
    try:
        if not path.is_file():
            return None
        status, sha256 = path.stat(), known_sha256(local_state(path))
    except OSError:
        return None
    return StoredFile(name, status.st_size, sha256, sha256, status.st_mtime)


def _sizes(files: Files) -> dict[str, int]:
    return {name: file.size for name, file in files.items()}
