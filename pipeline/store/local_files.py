"""Write files so that each appears whole under its name, and survives power loss.

Its content is synced before its name appears. The names in a folder are synced by `sync`, once for
all files that were made in it.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.retrying import ATTEMPTS

PARTIAL = ".partial"  # the suffix of files in the making; zarr's own unfinished files have it too
INSIDE = "content"  # the file that stands for an object where folders are renamed to create one
# What a file system answers to a request for a hard link if it has none. A read-only one never
# comes so far: the temporary file could not be written.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EINVAL, errno.EXDEV}


def create_file(target: Path, content: bytes) -> None:
    """Create a file whole. Raises FileExistsError where there is one, or a folder, already."""
    _place(target, content, _link)


def put_file(target: Path, content: bytes) -> None:
    """Make or replace a file: a reader sees it whole, or not at all."""
    _place(target, content, lambda temporary, target: temporary.replace(target))


def copy_file(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; copy it where the file system has no links."""
    make_folder(target.parent)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _place(target: Path, content: bytes, place: Callable[[Path, Path], Any]) -> None:
    """Write a file of a fresh name beside the target, sync it, and give it its name.

    Done again where the file or its folder is gone: who reclaims removes empty folders, and
    files that seem to be left behind.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    attempts = Retrying(
        retry=retry_if_exception_type(FileNotFoundError),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    for attempt in attempts:
        with attempt:
            try:
                make_folder(target.parent)
                _write(temporary, content)
                place(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_folder(temporary, target)


def _rename_folder(temporary: Path, target: Path) -> None:
    """Create a target by renaming a folder to it. Raises FileExistsError.

    That fails where a folder that is not empty has the name, so that two processes cannot both
    succeed, on file systems without hard links too. (Filling a file that was opened with O_EXCL
    would show it before it is whole.)
    """
    folder = temporary.with_name(f"{temporary.name}.folder{PARTIAL}")
    folder.mkdir()
    try:
        temporary.rename(folder / INSIDE)
        sync(folder)
        folder.rename(target)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
        raise


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, so that they survive power loss."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync(one.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive power loss, where that can be done."""
    with suppress(OSError):  # some file systems cannot open a folder, and some not sync one
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove_empty_folders(folders: set[Path], root: Path) -> None:
    """Remove folders below a root, and those around them, as far as they are empty."""
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        for one in (folder, *folder.parents):
            if one == root:
                break
            try:
                one.rmdir()
            except OSError:  # it is not empty
                break
