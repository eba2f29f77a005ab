"""The address that a run's checkpoints are read from: its own, or that of its conversion.

The `.pth` and `.pt` files of a remote run are downloaded first.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.files import is_plain_name
from pipeline.checkpoints.foreign import Given, is_foreign, ordinary_run, without_use
from pipeline.checkpoints.places import remote_place_of
from pipeline.checkpoints.pth_names import SUFFIXES
from pipeline.checkpoints.stored import Folder, StoredFile
from pipeline.config import RunLayout
from pipeline.errors import InputError
from pipeline.writing import whole_folder

# Bytes of all files of a run together: a thousand checkpoints of a model of a million parameters.
MOST_BYTES = 4 * 2**30


def converted_uri(uri: str, model: Given | None = None, layout: RunLayout | None = None) -> str:
    """Return the address that a run's checkpoints are read from: its conversion, or `uri` itself.

    layout: its `names` give the steps of the files, if `model` is given. The files of a remote run
    are downloaded if `model` is given. Raises InputError as `ordinary_run` does, and for remote
    files that are too large together.
    """
    if "://" not in uri:
        return str(ordinary_run(uri, model, layout)) if model or is_foreign(uri) else uri
    if not model:
        return uri
    folder = _downloaded(uri)
    if folder is None:
        raise without_use(uri)
    try:
        return str(ordinary_run(str(folder), model, layout))
    except InputError as error:
        raise InputError(str(error).replace(str(folder), uri)) from error


def _downloaded(uri: str) -> Path | None:
    """Return a local folder with a remote run's .pth and .pt files, kept in the cache.

    Returns None for a run with a folder, branch or tag for each checkpoint. Raises InputError if
    there are no such files, or if they have more than MOST_BYTES together.
    """
    place = remote_place_of(uri)
    if place is None:
        raise ValueError(f"{uri} is no remote address")
    inside = place.contents(uri, RunLayout())
    if any(Path(folder.name).suffix not in SUFFIXES for folder in inside.folders):
        return None
    run = inside.run
    if not isinstance(run, Folder):
        run = Folder("", run, place.files_of([run])[0])
    wanted = _state_dicts(run, inside.folders)
    if not wanted:
        raise InputError(
            f"{uri}: `model` is given for .pth and .pt files, and there are none directly in it: "
            "give the folder that contains them"
        )
    if (size := sum(file.size for file in wanted.values())) > MOST_BYTES:
        raise InputError(
            f"{uri}: its {len(wanted)} .pth and .pt files have {size:,} bytes, and at most "
            f"{MOST_BYTES:,} are downloaded to be converted: copy those that you need to a folder"
        )
    states = "\n".join([uri, *(f"{one.name} {one.size} {one.identity}" for one in wanted.values())])
    kept = cache_folder() / "downloaded" / hashlib.sha256(states.encode()).hexdigest()[:32]
    if not kept.is_dir():
        with whole_folder(kept) as draft:
            draft.mkdir(parents=True, exist_ok=True)
            for file in wanted.values():
                place.fetch(file.at or run.uri, file, draft / file.name)
    return kept


def _state_dicts(run: Folder, single: Sequence[Folder]) -> dict[str, StoredFile]:
    """Return the .pth and .pt files of a run by name: in its folder, or each as a checkpoint."""
    files = {**run.files, **{name: one for each in single for name, one in each.files.items()}}
    return {
        name: file
        for name, file in sorted(files.items())
        if Path(name).suffix in SUFFIXES and is_plain_name(name)
    }
