"""Detect checkpoints that a training run is still writing, which are left out of listings.

A save that ends by renaming a folder is never seen incomplete; neither is a commit on the Hub. For
all others:

1. A folder of transformers' Trainer (`checkpoint-N`) is finished when it has a trainer_state.json,
   the last file of a save. One that has other files of a Trainer but not that one (written by
   `trainer.save_model`, or an interrupted save) is finished when it is complete and unchanged for
   `SETTLED_AFTER` seconds. One without any files of a Trainer is unfinished while it is incomplete
   and has changed within that time.
2. Of the other folders only the one of the latest step can be unfinished: if it is incomplete, has
   changed within `SETTLED_AFTER` seconds, and grows while it is watched (on S3, where objects
   appear as a whole, the time alone decides).

Complete: config and weights exist, with all files that an index names, each as long as its header
says. Any other incomplete checkpoint is listed, and computing it fails with a message that names
what is missing.

Times are compared with the storage's clock. If files have later times (on a shared disk: of another
machine's clock), a folder counts as unchanged since this machine first saw it in its state.
"""

import time
from contextlib import suppress

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.completeness import lack
from pipeline.checkpoints.stored import Folder, Place

# Seconds: longer than the pauses between two files of a save, short enough to wait for.
SETTLED_AFTER = 60.0

# Files that a Trainer writes beside the weights, before its trainer_state.json.
_TRAINER_FILES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def unfinished_trainer_save(place: Place, folder: Folder) -> str:
    """Return the reason that `folder` is unfinished by the first rule, or ""."""
    if place.ATOMIC_UNIT == "commit" or not folder.name.startswith("checkpoint-"):
        return ""
    if "trainer_state.json" in folder.files:
        return ""
    lacks = lack(place, folder)
    is_a_trainers = any(name in folder.files for name in _TRAINER_FILES)
    if not lacks and not is_a_trainers:
        return ""
    age = unchanged_for(place, folder)
    lately = f"changed {age:.0f} s ago"
    if not lacks:
        return f"{lately}, and has no trainer_state.json" if age < SETTLED_AFTER else ""
    if age < SETTLED_AFTER:
        return f"{lacks}; {lately}"
    return f"{lacks}, and it has no trainer_state.json: the save was cut off" * is_a_trainers


def unfinished_latest(place: Place, folder: Folder) -> str:
    """Return the reason that the latest step's folder is unfinished by the second rule, or ""."""
    if place.ATOMIC_UNIT == "commit":
        return ""
    lacks = lack(place, folder, by_listing=place.ATOMIC_UNIT == "file")
    if not lacks or (age := unchanged_for(place, folder)) >= SETTLED_AFTER:
        return ""
    return f"{lacks}; changed {age:.0f} s ago" if place.is_growing(folder) else ""


def unchanged_for(place: Place, folder: Folder) -> float:
    """Return the seconds since the last change of a file directly in a folder."""
    times = [file.changed for file in folder.files.values()] or [folder.changed]
    age = place.now(folder.uri) - max(times)
    if age >= 0:
        return age
    files = sorted((file.name, file.size, file.changed) for file in folder.files.values())
    state = f"{folder.uri} {folder.changed} {files}"
    first_seen = recall("first-seen", state)
    with suppress(TypeError, ValueError):  # absent, or an entry that was damaged
        return max(0.0, time.time() - float(first_seen))  # pyright: ignore[reportArgumentType]
    remember("first-seen", state, repr(time.time()).encode())
    return 0.0
