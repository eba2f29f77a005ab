"""The contents of a checkpoint according to its listing and small files, for any storage."""

import json
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.config_keys import identifying
from pipeline.checkpoints.digests import combined
from pipeline.checkpoints.files import (
    files_of_tensors,
    inside_run,
    is_hugging_face,
    is_index,
    main_file,
    shard_names,
)
from pipeline.checkpoints.formats import format_of, holds_weights
from pipeline.checkpoints.formats.base import AssumingFormat, Format, LocalParts
from pipeline.checkpoints.headers import read_header
from pipeline.checkpoints.layouts import ADAPTER, layout_of
from pipeline.checkpoints.placeholders import placeholder_of
from pipeline.checkpoints.places import folder_of, place_of
from pipeline.checkpoints.stored import Files, Folder, Place, StoredFile
from pipeline.errors import ChangedError, CheckpointError, DamagedError, InputError
from pipeline.outside import is_whole, json_object, largest, parsed_json, reading, refuse_larger

# Keys whose numbers may be infinite: the bounds of time steps in the configs of Mamba 2.
MAY_BE_INFINITE = ("time_step_limit",)

_CONFIGS_VERSION = 2  # of cached configs; to be raised when a format makes other ones

# Threads that need the same content at once request it once. A fixed number of locks is shared by
# all identities, since one lock for each would have to be removed again.
_READING = tuple(threading.Lock() for _ in range(64))

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 2**16  # the record that ends a zip file, and the longest comment after it


def where(place: Place, folder: Folder, name: str) -> tuple[Place, str]:
    """Return the storage and the address of the folder that one of a checkpoint's files is in."""
    at = folder.files[name].at
    return (place_of(at), at) if at else (place, folder.uri)


def read_bytes(
    place: Place, folder: Folder, name: str, start: int = 0, stop: int | None = None
) -> bytes:
    """Return bytes `start` to `stop` of one of a checkpoint's files; see `Place.read`."""
    storage, uri = where(place, folder, name)
    return storage.read(uri, folder.files[name].name_there, start, stop)


def format_of_files(files: Files) -> Format | None:
    """Return the format of a checkpoint's files; None for that of Hugging Face, or if unknown."""
    # The weights of an adapter's base model are in the Hugging Face format, and elsewhere.
    own = [name for name, file in files.items() if not file.at] if ADAPTER in files else files
    return None if is_hugging_face(own) else format_of(files)


def local_parts(folder: Folder | str | Path) -> LocalParts:
    """Return the files that hold the weights of a checkpoint on this machine.

    folder: with its files as they were listed, or its address, which is then listed. Raises
    CheckpointError if there are none, if an index names a missing file, or if a link leads out of
    the run that the checkpoint belongs to.
    """
    listed = folder if isinstance(folder, Folder) else folder_of(str(folder))
    parts = weight_parts(place_of(listed.uri), listed)
    paths = {part.name: _local_path(listed, part) for part in parts}
    return LocalParts(paths, format_of_files(listed.files))


def _local_path(folder: Folder, part: StoredFile) -> Path:
    """Return the path of a weight file, under the name that the checkpoint has it by."""
    target = inside_run(Path(part.at or folder.uri), part.name_there)
    if not part.real_name:
        return target
    # The link itself, since the suffix of a name tells how a file is read.
    own = Path(folder.uri)
    link = own if own.name == part.name else own / part.name
    if not link.exists() or not link.samefile(target):
        raise CheckpointError(f"{link}: no longer leads to {target}: analyse the run again")
    return link


def weight_parts(place: Place, folder: Folder) -> list[StoredFile]:
    """Return the files that hold a checkpoint's weights, by name, after reading an index if any.

    Raises CheckpointError if there are none, or if a file is missing.
    """
    main, names = part_names(place, folder)
    if absent := [name for name in names if name not in folder.files]:
        raise CheckpointError(
            f"{folder.uri}/{absent[0]}: is missing, though {main} names it: restore it"
        )
    return [folder.files[name] for name in names]


def part_names(place: Place, folder: Folder) -> tuple[str, list[str]]:
    """Return the name of the weight file or index, and the names of all files with weights."""
    if known := format_of_files(folder.files):
        names = known.weights(folder.files)
        return names[0], names
    main = main_file(folder.uri, folder.files)
    if not is_index(main):
        return main, [main]
    index = read_small(place, folder, main)
    return main, shard_names(f"{folder.uri}/{main}", index)


def tensors_by_part(place: Place, folder: Folder) -> dict[str, str]:
    """Return the file of each tensor of a sharded checkpoint; {} for a checkpoint of one file.

    {} also for other formats than that of Hugging Face.
    """
    if format_of_files(folder.files):
        return {}
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
        return read_bytes(place, folder, name)
    with _READING[hash(identity) % len(_READING)]:
        found = recall("small", identity)
        if found is None:
            try:
                found = _read_verified(place, folder, name)
            except ChangedError:  # replaced since the listing: not to be cached under the identity
                return read_bytes(place, folder, name)
            remember("small", identity, found)
    return found


def _read_verified(place: Place, folder: Folder, name: str) -> bytes:
    """Read a small file and verify it; once more if the bytes were damaged in transfer."""
    storage, uri = where(place, folder, name)
    file = replace(folder.files[name], name=folder.files[name].name_there)
    try:
        found = storage.read(uri, file.name)
        storage.verify(uri, file, found)
    except DamagedError:
        found = storage.read(uri, file.name)
        storage.verify(uri, file, found)
    return found


class StoredSource:
    """The files of a checkpoint, for the modules of `formats`; see `formats.base.Source`."""

    def __init__(self, place: Place, folder: Folder) -> None:
        self.uri, self.names = folder.uri, folder.files
        self._place, self._folder = place, folder

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        return read_small(self._place, self._folder, name)

    def described(self, name: str) -> Any:
        """Return what torch.save wrote in a file, its tensors on the meta device, without data."""
        from pipeline.checkpoints.torch_files import described, named  # needs torch

        file = self._folder.files[name]
        with named(f"{file.at or self.uri}/{name}"):
            return described(partial(read_bytes, self._place, self._folder, name), file.size)


def config_of(place: Place, folder: Folder) -> dict[str, Any]:
    """Return a checkpoint's config.json without keys that vary between equal models.

    It is made from the checkpoint's own description of its model where the format has another one.
    Raises InputError, naming the file, if it is absent or not a readable JSON object.
    """
    return identifying(whole_config(place, folder))


def read_config(uri: str, files: Files | None = None, progress: bool = False) -> dict[str, Any]:
    """Return the result of `config_of` for the checkpoint at an address.

    files: of its folder, as they were listed. progress: see `identifying`.
    """
    return identifying(whole_config(place_of(uri), folder_of(uri, files)), progress)


def whole_config(place: Place, folder: Folder) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json; see `config_of`."""
    if "config.json" not in folder.files:
        return _made_config(place, folder)
    file = folder.files["config.json"]
    path = f"{file.at or folder.uri}/{file.name_there}"
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
    return json_object(content, path, InputError, MAY_BE_INFINITE, remedy)


def _made_config(place: Place, folder: Folder) -> dict[str, Any]:
    """Return a config made from a checkpoint's own description; kept, if its files have identities.

    Raises InputError if there is no such description.
    """
    known = format_of_files(folder.files)
    if known is None:
        raise InputError(_no_config(f"{folder.uri}/config.json", folder.files))
    identities = sorted((name, file.identity) for name, file in folder.files.items())
    state = f"{_CONFIGS_VERSION} {identities}"
    is_lasting = all(identity for _, identity in identities)
    kept = recall("configs", state) if is_lasting else None
    with suppress(ValueError):  # an entry that was damaged on disk is made again
        if kept is not None:
            return parsed_json(kept, finite=False)
    try:
        with reading(folder.uri):
            made = known.config(StoredSource(place, folder))
    except CheckpointError as error:
        raise InputError(str(error)) from error
    if is_lasting:
        remember("configs", state, json.dumps(made).encode())
    return made


def is_config_of_a_model(place: Place, folder: Folder) -> bool:
    """Return whether a folder's config.json names the type of a model, as transformers' do."""
    try:
        return isinstance(config_of(place, folder).get("model_type"), str)
    except InputError:
        return False


def assumed_of_model(place: Place, folder: Folder) -> list[str]:
    """Return what no file of a checkpoint says of its model, and is assumed, as sentences."""
    known = None if "config.json" in folder.files else format_of_files(folder.files)
    if not isinstance(known, AssumingFormat):
        return []
    return known.assumed(StoredSource(place, folder))


def _no_config(path: str, names: Collection[str]) -> str:
    if ADAPTER in names:
        return f"{path}: is missing; found {ADAPTER}, {layout_of(names)}"
    if not holds_weights(names) and (known := layout_of(names)):
        return f"{path}: is missing; found {known}"
    return (
        f"{path}: is missing: restore it, put the model's config.json in the run's folder, or give "
        "its path as `config`"
    )


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
    has_config = "config.json" in folder.files or format_of_files(folder.files) is not None
    return "" if has_config else "no config.json yet"


def _has_no_weights(folder: Folder) -> bool:
    return not holds_weights(folder.files)


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
    read = partial(read_bytes, place, folder, part.name)
    if part.name.endswith(".safetensors"):
        try:
            return part.size < read_header(read, part.size).size
        except (ValueError, EOFError):
            return True
    if part.size == 0:
        return True
    is_zip = read(0, 2) == b"PK"
    return is_zip and _ZIP_END not in read(max(0, part.size - _ZIP_TAIL), part.size)
