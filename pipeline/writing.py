"""Write files and folders atomically: complete under their name, or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block ends without error.

    draft: the path to write to, if only one process ever writes `path`; remains of a killed
    process are then overwritten. By default it is a hidden file beside `path`.
    """
    # Beside `path`, since a rename is atomic only within one file system. With its suffix, since
    # numpy.save appends `.npy` to a name without it.
    beside = draft or path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Yield a path to make a folder at, which is renamed to `path` if the block ends without error.

    If another process has made `path` meanwhile, that folder is kept. draft: as for `whole_file`.
    """
    beside = draft or path.with_name(uuid.uuid4().hex)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        yield beside
        beside.rename(path)
    except OSError:
        # Renaming onto a non-empty folder fails: another process was faster, with equal content.
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
