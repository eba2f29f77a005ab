"""Which checkpoints a training run is still writing: they are left out, with the reason.

A save that ends by renaming a folder into place is never seen half-written, nor is a commit on the
Hub. For the others:

1. A folder that transformers' Trainer writes (`checkpoint-N`) is finished when it has its
   trainer_state.json, the last file of a save. One that has other files of a Trainer and not that
   one (`trainer.save_model` writes it, or a save that was cut off) is finished when it is whole and
   nothing in it has changed for `SETTLED_AFTER` seconds, and until then unfinished. One that has
   nothing of a Trainer's is unfinished while it is not whole and has changed within that time.
2. Of the other folders only the latest step's can be in the making: it is unfinished if it is not
   whole, has changed within `SETTLED_AFTER` seconds, and grows while we look (on S3, where objects
   appear whole one after another, the time alone decides).

Whole: config and weights are there, all files that an index names, each as long as it says of
itself. Any other checkpoint that is not whole is a bad one: it is listed, and its computation says
by name what is wrong.

Time is that of the storage's clock. Where the files' times are ahead of it (on a disk: of another
machine's clock), a folder has been unchanged for as long as this machine has seen it in one state.
"""

import time

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.contents import lack
from pipeline.checkpoints.stored import Folder, Place

SETTLED_AFTER = 60.0  # seconds

# What a Trainer writes beside the weights, before its trainer_state.json.
_TRAINER_FILES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def unfinished_trainer_save(place: Place, folder: Folder) -> str:
    """Why the first rule says that `folder` is not finished, "" where it does not."""
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
    """Why the second rule says that `folder`, of the latest step, is not finished; or ""."""
    if place.ATOMIC_UNIT == "commit":
        return ""
    lacks = lack(place, folder, by_listing=place.ATOMIC_UNIT == "file")
    if not lacks or (age := unchanged_for(place, folder)) >= SETTLED_AFTER:
        return ""
    return f"{lacks}; changed {age:.0f} s ago" if place.is_growing(folder) else ""


def unchanged_for(place: Place, folder: Folder) -> float:
    """Seconds since anything directly in a folder changed."""
    times = [file.changed for file in folder.files.values()] or [folder.changed]
    age = place.now(folder.uri) - max(times)
    if age >= 0:
        return age
    files = sorted((file.name, file.size, file.changed) for file in folder.files.values())
    state = f"{folder.uri} {folder.changed} {files}"
    first_seen = recall("first-seen", state)
    if first_seen is None:
        remember("first-seen", state, repr(time.time()).encode())
        return 0.0
    return max(0.0, time.time() - float(first_seen))
