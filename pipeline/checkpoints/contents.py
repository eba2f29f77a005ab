"""The contents of a checkpoint according to its listing and small files, for any storage."""

import threading
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.digests import combined
from pipeline.checkpoints.files import files_of_tensors, is_index, main_file, shard_names
from pipeline.checkpoints.headers import read_header
from pipeline.checkpoints.layouts import ADAPTER, layout_of
from pipeline.checkpoints.placeholders import placeholder_of
from pipeline.checkpoints.stored import Folder, Place, StoredFile
from pipeline.errors import ChangedError, CheckpointError, DamagedError, InputError
from pipeline.outside import is_whole, json_object, largest, parsed_json, reading, refuse_larger

# Keys that differ between configs of equal models.
_VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")

# Keys whose numbers may be infinite: the bounds of time steps in the configs of Mamba 2.
MAY_BE_INFINITE = ("time_step_limit",)

# Threads that need the same content at once request it once. A fixed number of locks is shared by
# all identities, since one lock for each would have to be removed again.
_READING = tuple(threading.Lock() for _ in range(64))

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 2**16  # the record that ends a zip file, and the longest comment after it


def weight_parts(place: Place, folder: Folder) -> list[StoredFile]:
    """Return the files that hold a checkpoint's weights, by name, after reading an index if any.

    Follows the rules of `files.weight_files`. Raises CheckpointError if a file is missing.
    """
    main, names = part_names(place, folder)
    if absent := [name for name in names if name not in folder.files]:
        raise CheckpointError(
            f"{folder.uri}/{absent[0]}: is missing, though {main} names it: restore it"
        )
    return [folder.files[name] for name in names]


def part_names(place: Place, folder: Folder) -> tuple[str, list[str]]:
    """Return the name of the weight file or index, and the names of all files with weights."""
    main = main_file(folder.uri, folder.files)
    if not is_index(main):
        return main, [main]
    index = read_small(place, folder, main)
    return main, shard_names(f"{folder.uri}/{main}", index)


def tensors_by_part(place: Place, folder: Folder) -> dict[str, str]:
    """Return the file of each tensor of a sharded checkpoint; {} for a checkpoint of one file."""
    main = main_file(folder.uri, folder.files)
    if not is_index(main):
        return {}
    return files_of_tensors(f"{folder.uri}/{main}", read_small(place, folder, main))


def known_digest(place: Place, folder: Folder) -> str | None:
    """Return the digest of a checkpoint's weights; None if they would have to be read for it."""
    try:
        with reading(folder.uri):
            return combined((part.name, part.sha256) for part in weight_parts(place, folder))
    except CheckpointError:
        return None


def read_small(place: Place, folder: Folder, name: str) -> bytes:
    """Return the content of a small file, from the cache if its identity determines it.

    Raises CheckpointError for one that is larger than such files are.
    """
    refuse_larger(f"{folder.uri}/{name}", folder.files[name].size, CheckpointError, largest(name))
    identity = folder.files[name].identity
    if identity is None:
        return read_part(place, folder, name)
    with _READING[hash(identity) % len(_READING)]:
        found = recall("small", identity)
        if found is None:
            try:
                found = _read_verified(place, folder, name)
            except ChangedError:  # replaced since the listing: not to be cached under the identity
                return read_part(place, folder, name)
            remember("small", identity, found)
    return found


def _read_verified(place: Place, folder: Folder, name: str) -> bytes:
    """Read a small file and verify it; once more if the bytes were damaged in transfer."""
    file = folder.files[name]
    own = replace(file, name=file.real_name or name)
    where, at = _place_of(place, folder, name)
    try:
        found = where.read(at, own.name)
        where.verify(at, own, found)
    except DamagedError:
        found = where.read(at, own.name)
        where.verify(at, own, found)
    return found


def read_part(
    place: Place, folder: Folder, name: str, start: int = 0, stop: int | None = None
) -> bytes:
    """Return bytes `start` to `stop` of a checkpoint's file, wherever it lies."""
    where, at = _place_of(place, folder, name)
    return where.read(at, folder.files[name].real_name or name, start, stop)


def _place_of(place: Place, folder: Folder, name: str) -> tuple[Place, str]:
    """Return the storage of a checkpoint's file, and the address of the folder it lies in."""
    at = folder.files[name].at if name in folder.files else ""
    if not at:
        return place, folder.uri
    from pipeline.checkpoints.places import place_of  # imports this module

    return place_of(at), at


def config_of(place: Place, folder: Folder) -> dict[str, Any]:
    """Return a checkpoint's config.json without keys that vary between equal models.

    Raises InputError, naming the file, if it is absent or not a readable JSON object.
    """
    path = f"{folder.uri}/config.json"
    if "config.json" not in folder.files:
        raise InputError(_no_config(path, folder.files))
    try:
        content = read_small(place, folder, "config.json")
    except CheckpointError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}): restore the config") from error
    if found := placeholder_of(content):
        raise InputError(f"{path}: {found}")
    remedy = "restore the checkpoint's config"
    config = json_object(content, path, InputError, MAY_BE_INFINITE, remedy)
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def is_config_of_a_model(place: Place, folder: Folder) -> bool:
    """Return whether a folder's config.json names the type of a model, as transformers' do."""
    try:
        return isinstance(config_of(place, folder).get("model_type"), str)
    except InputError:
        return False


def _no_config(path: str, names: Collection[str]) -> str:
    if ADAPTER in names:
        return f"{path}: is missing; found {ADAPTER}, {layout_of(names)}"
    return f"{path}: is missing: every checkpoint needs its config.json"


def tokens_in_trainer_state(place: Place, folder: Folder) -> int | None:
    """Return the number of training tokens that a Trainer counted; None if it did not."""
    if "trainer_state.json" not in folder.files:
        return None
    try:
        # Losses and norms that a Trainer logged may well be NaN.
        state = parsed_json(read_small(place, folder, "trainer_state.json"), finite=False)
    except (ValueError, OSError, CheckpointError):
        return None
    tokens = state.get("num_input_tokens_seen") if isinstance(state, dict) else None
    if isinstance(tokens, float) and tokens.is_integer():
        tokens = int(tokens)
    return tokens if is_whole(tokens, least=1) else None


def lack(place: Place, folder: Folder, by_listing: bool = False) -> str:
    """Return what a checkpoint lacks: config, weights, or the end of a file; "" if complete.

    by_listing: check for absent files only, without reading the ends of weight files.
    """
    try:
        with reading(folder.uri):
            return _first_lack(place, folder, by_listing)
    except CheckpointError as error:
        return "no weights yet" if _has_no_weights(folder) else str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"


def _first_lack(place: Place, folder: Folder, by_listing: bool) -> str:
    _, names = part_names(place, folder)
    for number, name in enumerate(names, start=1):
        if name not in folder.files:
            return f"shard {number} of {len(names)} is missing ({name})"
        if not by_listing and _is_short(place, folder, folder.files[name]):
            return f"{name} is cut off"
    return "" if "config.json" in folder.files else "no config.json yet"


def _has_no_weights(folder: Folder) -> bool:
    try:
        main_file(folder.uri, folder.files)
    except CheckpointError:
        return True
    return False


def _is_short(place: Place, folder: Folder, part: StoredFile) -> bool:
    """Return whether a file is truncated; a complete one with an identity is checked once only."""
    if part.identity is None:
        return is_cut_off(place, folder, part)
    if recall("whole", part.identity) is not None:
        return False
    short = is_cut_off(place, folder, part)
    if not short:
        remember("whole", part.identity, b"")
    return short


def is_cut_off(place: Place, folder: Folder, part: StoredFile) -> bool:
    """Return whether a safetensors file is shorter than its header says, or a zip file has no end.

    Pickles of torch before 1.6 do not contain their length, and count as complete.
    """
    read = partial(read_part, place, folder, part.name)
    if part.name.endswith(".safetensors"):
        try:
            return part.size < read_header(read, part.size).size
        except (ValueError, EOFError):
            return True
    if part.size == 0:
        return True
    is_zip = read(0, 2) == b"PK"
    return is_zip and _ZIP_END not in read(max(0, part.size - _ZIP_TAIL), part.size)
