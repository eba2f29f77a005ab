"""Files and folders that appear under their name whole, or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` when the block ends without error.

    draft: what to write to, where only one process ever writes `path`: what it left there when it
    was killed is overwritten. Otherwise it is a hidden file beside `path`, with the same suffix.
    """
    # The suffix stays: numpy, for one, adds its own to a name without it.
    beside = draft or path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Give a path to make a folder at, which becomes `path` when the block ends without error.

    Where another process has made `path` meanwhile, that folder stays. draft: as for `whole_file`.
    """
    beside = draft or path.with_name(uuid.uuid4().hex)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        yield beside
        beside.rename(path)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
