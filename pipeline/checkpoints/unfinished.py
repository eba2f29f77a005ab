"""Which checkpoints a training run is still writing: they are not listed.

A save that ends by renaming a folder into place is never seen half-written, nor is a commit on the
Hub. For the others:

1. A folder that transformers' Trainer writes (`checkpoint-N`) is finished when it has its
   trainer_state.json, the last file of a save. With a Trainer's other files and without that one
   it is unfinished for ever: the save was cut off. With nothing of a Trainer's yet, it is
   unfinished while weights or config are missing or cut off and something in it has changed within
   `SETTLED_AFTER` seconds.
2. Of the other folders only the latest step's can be in the making: it is unfinished if weights or
   config are missing or cut off, it has changed within `SETTLED_AFTER` seconds, and it grows while
   we look (on S3, where objects appear whole one after another, the time alone decides).

Any other checkpoint that is missing something or is cut off is a bad one: it is listed, and its
computation says by name what is wrong.
"""

import time

from pipeline.checkpoints.contents import is_whole
from pipeline.checkpoints.stored import Folder, Place

SETTLED_AFTER = 60.0

# What a Trainer writes beside the weights, before its trainer_state.json.
_TRAINER_FILES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def is_unfinished_trainer_save(place: Place, folder: Folder) -> bool:
    """Whether the first rule says that `folder` is not finished."""
    if place.WRITTEN_BY_THE == "commit" or not folder.name.startswith("checkpoint-"):
        return False
    if "trainer_state.json" in folder.files:
        return False
    if any(name in folder.files for name in _TRAINER_FILES):
        return True
    return _changed_lately(folder) and not is_whole(place, folder)


def is_unfinished_latest(place: Place, folder: Folder) -> bool:
    """Whether the second rule says that `folder`, of the latest step, is not finished."""
    if place.WRITTEN_BY_THE == "commit" or not _changed_lately(folder):
        return False
    return not is_whole(place, folder) and place.is_growing(folder)


def _changed_lately(folder: Folder) -> bool:
    last_change = max((file.changed for file in folder.files.values()), default=time.time())
    return time.time() - last_change < SETTLED_AFTER
