"""Choose the module that reads an address: `local`, `s3`, `hub` or `address_list`."""

from dataclasses import replace
from importlib import import_module
from typing import Any

from pipeline.addresses import require_no_secret
from pipeline.checkpoints import local
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.stored import Files, Folder, Place, RemotePlace
from pipeline.errors import InputError, suggestion

# Imported on demand, since a local run needs none of their libraries.
_REMOTE = {"s3": "s3", "hf": "hub"}


def place_of(uri: str) -> Place:
    """Return the module that reads a URI. Raises InputError for an unknown scheme."""
    if is_address_list(uri):
        return _module("address_list")
    return remote_place_of(uri) or local


def is_address_list(uri: str) -> bool:
    """Return whether a run's address is that of a file that lists the addresses of checkpoints."""
    return "://" not in uri and uri.endswith((".csv", ".json"))


def remote_place_of(uri: str) -> RemotePlace | None:
    """Return the module that reads a remote URI, None for a local path.

    Raises InputError for an unknown scheme, and for an address with a secret.
    """
    scheme, separator, _ = require_no_secret(uri).partition("://")
    if not separator:
        return None
    if scheme not in _REMOTE:
        raise InputError(
            f"{uri}: checkpoints cannot be read from {scheme}://; give a local folder, "
            f"s3://bucket/prefix or hf://owner/name ({suggestion(scheme, _REMOTE)})"
        )
    return _module(_REMOTE[scheme])


def _module(name: str) -> Any:
    return import_module(f"pipeline.checkpoints.{name}")


def folder_of(uri: str, files: Files | None = None) -> Folder:
    """Return a folder with its files, which are listed if they are not given."""
    found = place_of(uri).files_of([uri])[0] if files is None else files
    return Folder(uri.rstrip("/").rpartition("/")[2], uri, found)


def listed_folder(checkpoint: Checkpoint) -> Folder:
    """Return a checkpoint's folder with its files as they were listed."""
    return folder_of(checkpoint.uri, checkpoint.files)


def current_folder(checkpoint: Checkpoint) -> Folder:
    """Return a checkpoint's folder with its files as they are now.

    Of the files that are elsewhere, those that were listed.
    """
    found = dict(folder_of(checkpoint.uri).files)
    for file in (files_elsewhere(checkpoint) or {}).values():
        if (now := place_of(file.at).file_in(file.at, file.name_there)) is not None:
            found[file.name] = replace(now, name=file.name, at=file.at, real_name=file.real_name)
    return folder_of(checkpoint.uri, found)


def files_elsewhere(checkpoint: Checkpoint) -> Files | None:
    """Return the listed files of a checkpoint that are not in its own folder; None without any."""
    listed = checkpoint.files or {}
    return {name: file for name, file in listed.items() if file.at} or None
