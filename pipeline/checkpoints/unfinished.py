"""Which checkpoints a training run is still writing: they are not listed.

A save that ends by renaming a folder into place is never seen half-written. For the others:

1. A folder that transformers' Trainer writes (`checkpoint-N`) is finished when it has its
   trainer_state.json, the last file of a save. With a Trainer's other files and without that one
   it is unfinished for ever: the save was cut off. With nothing of a Trainer's yet, it is
   unfinished while weights or config are missing or cut off and something in it has changed within
   `SETTLED_AFTER` seconds.
2. Of the other folders only the latest step's can be in the making: it is unfinished if weights or
   config are missing or cut off, and its files grow while we look, `WATCHED_FOR` seconds.

Any other checkpoint that is missing something or is cut off is a bad one: it is listed, and its
computation says by name what is wrong.
"""

import time
import zipfile
from pathlib import Path

from pipeline.checkpoints.files import weight_files
from pipeline.checkpoints.headers import NoHeaderError, read_local_header
from pipeline.errors import CheckpointError

SETTLED_AFTER = 60.0
WATCHED_FOR = 1.0

# What a Trainer writes beside the weights, before its trainer_state.json.
_TRAINER_FILES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def is_unfinished_trainer_save(folder: Path) -> bool:
    """Whether the first rule says that `folder` is not finished."""
    if not folder.name.startswith("checkpoint-") or (folder / "trainer_state.json").is_file():
        return False
    if any((folder / name).exists() for name in _TRAINER_FILES):
        return True
    return time.time() - _last_change(folder) < SETTLED_AFTER and not is_whole(folder)


def is_growing(folder: Path) -> bool:
    """Whether the second rule says that `folder`, of the latest step, is not finished."""
    settled = time.time() - _last_change(folder) > SETTLED_AFTER
    if settled or is_whole(folder):
        return False
    before = _sizes(folder)
    time.sleep(WATCHED_FOR)
    return _sizes(folder) != before


def is_whole(folder: Path) -> bool:
    """Whether config and weights are there, each weight file as long as it says of itself."""
    try:
        files = weight_files(folder)
    except CheckpointError:
        return False
    return (folder / "config.json").is_file() and all(_is_whole_file(file) for file in files)


def _is_whole_file(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says, and a zip file has its directory.

    The pickles of torch before 1.6 do not say how long they are.
    """
    try:
        if file.suffix == ".safetensors":
            return file.stat().st_size == read_local_header(file).size
        with file.open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
        return not is_zip or zipfile.is_zipfile(file)
    except (NoHeaderError, OSError):
        return False


def _last_change(folder: Path) -> float:
    """Seconds since the epoch; now, if files come and go while we look."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()


def _sizes(folder: Path) -> dict[str, int]:
    try:
        return {path.name: path.lstat().st_size for path in folder.iterdir()}
    except OSError:
        return {}
