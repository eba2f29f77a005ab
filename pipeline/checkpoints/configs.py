"""Read the config.json of a checkpoint, or make one from its own description of its model."""

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.config_keys import identifying
from pipeline.checkpoints.contents import StoredSource, format_of_files, read_small
from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.formats.base import AssumingFormat
from pipeline.checkpoints.layouts import ADAPTER, layout_of
from pipeline.checkpoints.placeholders import placeholder_of
from pipeline.checkpoints.places import folder_of, place_of
from pipeline.checkpoints.stored import Files, Folder, Place
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import json_object, parsed_json, reading

# Keys whose numbers may be infinite: the bounds of time steps in the configs of Mamba 2.
MAY_BE_INFINITE = ("time_step_limit",)

_CONFIGS_VERSION = 2  # of cached configs; to be raised when a format makes other ones


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
