"""Find what a checkpoint lacks: a config, weights, or the end of a file."""

from functools import partial

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.contents import format_of_files, read_bytes
from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.headers import read_header
from pipeline.checkpoints.stored import Folder, Place, StoredFile
from pipeline.checkpoints.weight_files import part_names
from pipeline.errors import CheckpointError
from pipeline.outside import reading

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 2**16  # the record that ends a zip file, and the longest comment after it


def lack(place: Place, folder: Folder, by_listing: bool = False) -> str:
    """Return what a checkpoint lacks: config, weights, or the end of a file; "" if complete.

    by_listing: check for absent files only, without reading the ends of weight files.
    """
    try:
        with reading(folder.uri):
            return _first_lack(place, folder, by_listing)
    except CheckpointError as error:
        return "no weights yet" if not holds_weights(folder.files) else str(error)
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
