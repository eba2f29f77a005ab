"""Facts about a checkpoint's files that copies of local and of remote ones need."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from pipeline.checkpoints.configs import config_of
from pipeline.checkpoints.digests import local_state
from pipeline.checkpoints.formats.base import Format
from pipeline.checkpoints.places import place_of, remote_place_of
from pipeline.checkpoints.stored import Folder, Place
from pipeline.checkpoints.weight_files import local_parts, weight_parts
from pipeline.errors import CheckpointError, InputError

# Errors of reading a file after which the checkpoint is tried again.
TRANSIENT = (OSError, MemoryError)


def identity_of(folder: Folder) -> str | None:
    """Return what changes whenever the bytes of a checkpoint's weights may; None if unknown."""
    try:
        if remote_place_of(folder.uri) is None:
            return joined([local_state(file) for file in local_parts(folder).files.values()])
        place = place_of(folder.uri)
        return joined([part.identity for part in weight_parts(place, folder)])
    except (CheckpointError, OSError):
        return None


def joined(identities: Sequence[str | None] | None) -> str | None:
    """Return the identities of some files as one; None if there is none, or one is unknown."""
    found = [one for one in identities or () if one is not None]
    return "\n".join(found) if found and len(found) == len(identities or ()) else None


def have_ranges(names: Iterable[str], format_: Format | None) -> bool:
    """Return whether tensors can be read alone: from safetensors files in Hugging Face's format."""
    return format_ is None and all(name.endswith(".safetensors") for name in names)


def config_if_readable(place: Place, folder: Folder) -> dict[str, Any]:
    """Return the content of config.json; {} if it cannot be read."""
    with suppress(InputError):
        return config_of(place, folder)
    return {}


def gone(uri: str) -> str:
    """Return the message for a checkpoint that is no longer there."""
    return f"{uri}: is gone since it was listed: restore it, or go on without it"
