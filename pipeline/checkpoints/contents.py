"""What a checkpoint consists of, from its listing and its small files, wherever it is kept."""

import json
from collections.abc import Collection
from functools import partial
from typing import Any

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.digests import combined
from pipeline.checkpoints.files import is_index, main_file, shard_names
from pipeline.checkpoints.headers import read_header
from pipeline.checkpoints.layouts import ADAPTER, layout_of
from pipeline.checkpoints.placeholders import placeholder_of
from pipeline.checkpoints.stored import Folder, Place, StoredFile
from pipeline.errors import ChangedError, CheckpointError, DamagedError, InputError

# What differs between configs of equal models.
_VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")

_DEEPEST = 64  # levels of a config.json; what nests deeper is refused before anything walks it
_LARGEST_CONFIG = 32 * 2**20  # bytes
_MOST_TOKENS = 2**63  # a larger count is none, and no store can hold it

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 2**16  # the record that ends a zip file, and the longest comment after it


def weight_parts(place: Place, folder: Folder) -> list[StoredFile]:
    """The files that hold a checkpoint's weights, by name. Raises CheckpointError; reads an index.

    The same rules as for the files on disk, see `files.weight_files`.
    """
    main, names = part_names(place, folder)
    if absent := [name for name in names if name not in folder.files]:
        raise CheckpointError(
            f"{folder.uri}/{absent[0]}: is missing, though {main} names it: restore it"
        )
    return [folder.files[name] for name in names]


def part_names(place: Place, folder: Folder) -> tuple[str, list[str]]:
    """The file that holds the weights or their index, and the names of all that hold weights."""
    main = main_file(folder.uri, folder.files)
    if not is_index(main):
        return main, [main]
    index = read_small(place, folder, main)
    return main, shard_names(f"{folder.uri}/{main}", index)


def tensors_by_part(place: Place, folder: Folder) -> dict[str, str]:
    """For each tensor of a sharded checkpoint the name of its file; empty for one of one file."""
    main = main_file(folder.uri, folder.files)
    return json.loads(read_small(place, folder, main))["weight_map"] if is_index(main) else {}


def known_digest(place: Place, folder: Folder) -> str | None:
    """The digest of a checkpoint's weights, where it takes no reading of them."""
    try:
        return combined((part.name, part.sha256) for part in weight_parts(place, folder))
    except CheckpointError:
        return None


def read_small(place: Place, folder: Folder, name: str) -> bytes:
    """The content of a small file; remembered where its identity tells its content."""
    identity = folder.files[name].identity
    found = None if identity is None else recall("small", identity)
    if found is not None or identity is None:
        return place.read(folder.uri, name) if found is None else found
    try:
        found = _read_verified(place, folder, name)
    except ChangedError:  # what is there now, and not to be remembered under the listed identity
        return place.read(folder.uri, name)
    remember("small", identity, found)
    return found


def _read_verified(place: Place, folder: Folder, name: str) -> bytes:
    """Read, and once more where the bytes are not those that the place has."""
    file = folder.files[name]
    try:
        found = place.read(folder.uri, name)
        place.verify(folder.uri, file, found)
    except DamagedError:
        found = place.read(folder.uri, name)
        place.verify(folder.uri, file, found)
    return found


def config_of(place: Place, folder: Folder) -> dict[str, Any]:
    """The architecture in a checkpoint's config.json, without what varies between equal models.

    Raises InputError, naming the file, where there is none that can be read.
    """
    path = f"{folder.uri}/config.json"
    if "config.json" not in folder.files:
        raise InputError(_no_config(path, folder.files))
    if (size := folder.files["config.json"].size) > _LARGEST_CONFIG:
        raise InputError(f"{path}: has {size} bytes, which no config has: restore it")
    content = b""
    try:
        content = read_small(place, folder, "config.json")
        config = json.loads(content)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}): restore the config") from error
    except (ValueError, RecursionError) as error:
        wrong = placeholder_of(content) or "is not valid JSON: restore the checkpoint's config"
        raise InputError(f"{path}: {wrong}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no JSON object: restore the checkpoint's config")
    if not _is_shallow(config):
        raise InputError(
            f"{path}: is nested more than {_DEEPEST} levels deep: restore the checkpoint's config"
        )
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def _no_config(path: str, names: Collection[str]) -> str:
    if ADAPTER in names:
        return f"{path}: is missing; found {ADAPTER}, {layout_of(names)}"
    return f"{path}: is missing: every checkpoint needs its config.json"


def _is_shallow(value: Any, levels: int = _DEEPEST) -> bool:
    if not isinstance(value, dict | list):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inside)


def tokens_in_trainer_state(place: Place, folder: Folder) -> int | None:
    """The training tokens that a Trainer counted, None where there is no such count."""
    if "trainer_state.json" not in folder.files:
        return None
    try:
        state = json.loads(read_small(place, folder, "trainer_state.json"))
        tokens = int(state.get("num_input_tokens_seen", 0))
    except (
        ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError,
        CheckpointError,
    ):  # fmt: skip
        return None
    return tokens if 0 < tokens < _MOST_TOKENS else None


def lack(place: Place, folder: Folder, by_listing: bool = False) -> str:
    """What a checkpoint lacks to be whole, "" if nothing: config, weights, or the end of a file.

    by_listing: only what is not there is told, no weight file is read in part for it.
    """
    try:
        _, names = part_names(place, folder)
        for number, name in enumerate(names, start=1):
            if name not in folder.files:
                return f"shard {number} of {len(names)} is missing ({name})"
            if not by_listing and _is_short(place, folder, folder.files[name]):
                return f"{name} is cut off"
    except CheckpointError as error:
        return "no weights yet" if _has_no_weights(folder) else str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    return "" if "config.json" in folder.files else "no config.json yet"


def _has_no_weights(folder: Folder) -> bool:
    try:
        main_file(folder.uri, folder.files)
    except CheckpointError:
        return True
    return False


def _is_short(place: Place, folder: Folder, part: StoredFile) -> bool:
    """`is_cut_off`, asked once for each content that the place identifies."""
    if part.identity is None:
        return is_cut_off(place, folder, part)
    if recall("whole", part.identity) is not None:
        return False
    short = is_cut_off(place, folder, part)
    if not short:
        remember("whole", part.identity, b"")
    return short


def is_cut_off(place: Place, folder: Folder, part: StoredFile) -> bool:
    """Whether a safetensors file is shorter than its header says, or a zip file lacks its end.

    The pickles of torch before 1.6 do not say how long they are.
    """
    read = partial(place.read, folder.uri, part.name)
    if part.name.endswith(".safetensors"):
        try:
            return part.size < read_header(read).size
        except (ValueError, EOFError):
            return True
    if part.size == 0:
        return True
    is_zip = read(0, 2) == b"PK"
    return is_zip and _ZIP_END not in read(max(0, part.size - _ZIP_TAIL), part.size)
