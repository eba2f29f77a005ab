"""Read runs from a local folder with a folder or a file for each checkpoint."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoints.files import inside_run, is_hugging_face, leads_out
from pipeline.checkpoints.folder_scan import file_at, files_in
from pipeline.checkpoints.foreign import ordinary_run
from pipeline.checkpoints.hugging_face_cache import is_repository, other_snapshots, snapshots_by_ref
from pipeline.checkpoints.left_out import NO_WEIGHTS, UNNAMED
from pipeline.checkpoints.names import companions, folder_inside, parse_file_name, parse_name
from pipeline.checkpoints.nested import MOST_LEVELS, model_folders, why_none
from pipeline.checkpoints.pth_names import step_in_name
from pipeline.checkpoints.stored import (
    AtomicUnit,
    Entry,
    Files,
    Folder,
    PlaceContents,
    StoredFile,
)
from pipeline.config import RunLayout
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import opened, reading

ATOMIC_UNIT: AtomicUnit = "byte"
WATCHED_FOR = 1.0  # seconds; a file that is being written grows within this time

_LINK = (
    "it is a link that leads out of the run: put the file itself there, or set `follow_links: true`"
)


def contents(uri: str, layout: RunLayout) -> PlaceContents:
    """Return the folders and files in `uri` that are checkpoints by their names, and the others.

    The checkpoints of a run in another format are those of its conversion, see `foreign.py`.
    """
    if is_repository(Path(uri)):
        return _cached_contents(Path(uri), layout)
    # A pattern of names given for the run tells the steps of any files.
    root = Path(uri) if layout.names else ordinary_run(uri)
    if root.is_file():
        raise InputError(f"{uri}: is a file of unknown format; expected a run's folder")
    if not root.is_dir():
        raise InputError(f"{uri}: there is no such folder: give the folder of a training run")
    with reading(uri, InputError, passing=(), remedy="give a folder that you may read"):
        paths = list(root.iterdir())
    found = [_entry(path, layout) for path in paths]
    folders = [one for one in found if isinstance(one, Folder)]
    others = [one for one in found if isinstance(one, Entry)]
    if root != Path(uri):
        others = [*others, *_not_converted(Path(uri), layout)]
    # By its address, a run whose files give no steps by themselves would be refused.
    run = Folder(root.name, uri, _config_in(root)) if layout.names else uri
    return PlaceContents(folders, run, others)


def now(uri: str) -> float:
    """Return this machine's time, which is that of its own disks."""
    return time.time()


def files_of(uris: Sequence[str]) -> list[Files]:
    """Return the files of each of the folders, see `stored.Files`; of a file, that file."""
    paths = [Path(uri) for uri in uris]
    return [_single(path) if path.is_file() else files_in(path) for path in paths]


def file_in(uri: str, name: str) -> StoredFile | None:
    """Return one file of a folder, without listing the others; None if it is absent."""
    return file_at(Path(uri) / name, name)


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
    time.sleep(WATCHED_FOR)
    (now,) = files_of([folder.uri])
    return any(
        name not in folder.files or file.size != folder.files[name].size
        for name, file in now.items()
    )


def _cached_contents(repository: Path, layout: RunLayout) -> PlaceContents:
    """Return the snapshots of a repository in a Hugging Face cache, by branches and tags.

    The checkpoints are in the main branch's snapshot if no other branch or tag is one.
    """
    snapshots = snapshots_by_ref(repository)
    main = snapshots.get("main")
    named = {ref: path for ref, path in snapshots.items() if parse_name(ref, layout) is not None}
    if not named and main is not None:
        return contents(str(main), layout)
    folders = [
        Folder(ref, str(path), files_in(path), _changed(path)) for ref, path in named.items()
    ]
    others = [Entry(ref, is_ref=True) for ref in snapshots if ref not in {*named, "main"}]
    for path in other_snapshots(repository, snapshots):
        why = "no branch or tag in this cache leads to the commit: download it by its branch"
        others.append(Entry(path.name, kind=UNNAMED, reason=why))
    return PlaceContents(folders, str(main or repository), others)


def _entry(path: Path, layout: RunLayout) -> Folder | Entry:
    """Return an entry of a run's folder, as a checkpoint if its name is that of one."""
    is_folder = path.is_dir()
    if is_folder and parse_name(path.name, layout) is not None:
        return _named_folder(path, layout)
    if not is_folder and parse_file_name(path.name, layout) is not None and path.is_file():
        return _named_file(path, layout)
    return Entry(path.name, _names_in(path) if is_folder else None)


def _named_folder(path: Path, layout: RunLayout) -> Folder | Entry:
    """Return a checkpoint's folder, or the one in it that holds the model."""
    inner = path / folder_inside(layout)
    if layout.follow_links and leads_out(path, target := Path(os.path.realpath(inner))):
        inner = target
    files = files_in(inner)
    if not is_hugging_face(files) and "config.json" not in files:
        below = dict(_below(inner))
        found = model_folders(files, below)
        if len(found) > 1:
            return Entry(path.name, kind=NO_WEIGHTS, reason=why_none(found))
        if not files and not any(below.values()) and os.access(inner, os.R_OK | os.X_OK):
            return Entry(path.name, kind=NO_WEIGHTS, reason="it is empty")
        if found[0]:
            inner /= found[0]
            files = files_in(inner)
    if layout.follow_links:
        files = _followed(files, inner)
    return Folder(path.name, str(inner), files, _changed(inner))


def _named_file(path: Path, layout: RunLayout) -> Folder | Entry:
    """Return a checkpoint that is a single file in a run's folder."""
    files = _single(path)
    # Only a file that is there is listed, and it may be gone by now.
    if path.name in files and leads_out(path, target := Path(os.path.realpath(path))):
        if not layout.follow_links:
            return Entry(path.name, kind=NO_WEIGHTS, reason=_LINK)
        files[path.name] = _moved(files[path.name], target)
    return Folder(path.name, str(path), files, _changed(path))


def _single(path: Path) -> dict[str, StoredFile]:
    """Return a file that is a checkpoint by itself, and the files beside it that describe it."""
    beside = (path.with_name(name) for name in companions(path.name))
    found = (file_at(one, one.name) for one in (path, *beside))
    return {one.name: replace(one, at=str(path.parent)) for one in found if one is not None}


def _followed(files: Files, folder: Path) -> dict[str, StoredFile]:
    """Return the files of a folder, links out of the run as what they lead to."""
    targets = {name: Path(os.path.realpath(folder / name)) for name in files}
    return {
        name: _moved(file, targets[name]) if leads_out(folder, targets[name]) else file
        for name, file in files.items()
    }


def _moved(file: StoredFile, target: Path) -> StoredFile:
    """Return a file that lies at another path."""
    real_name = "" if target.name == file.name else target.name
    return replace(file, at=str(target.parent), real_name=real_name)


def _below(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the folders below a checkpoint's, by their paths in it, with the names in them."""
    for path, folders, names in os.walk(folder):
        inside = Path(path).relative_to(folder)
        if inside.parts:
            yield inside.as_posix(), [*names, *folders]
        if len(inside.parts) >= MOST_LEVELS:
            folders.clear()


def _config_in(root: Path) -> dict[str, StoredFile]:
    config = file_in(str(root), "config.json")
    return {} if config is None else {config.name: config}


def _not_converted(run: Path, layout: RunLayout) -> list[Entry]:
    """Return the entries of a converted run beside the files that it was converted from."""
    if not run.is_dir():
        return []
    others = [path for path in run.iterdir() if step_in_name(path) is None]
    return [
        Entry(path.name, _names_in(path) if path.is_dir() else None)
        for path in others
        if not (path.is_dir() and parse_name(path.name, layout) is not None)
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
